//! Long runs over real sockets.

use crate::run::{Outcome, cargo, step};

/// Sessions that are cut at random for as long as told, under an oracle.
pub(crate) fn soak(seconds: Option<&str>) -> Outcome {
    let seconds = seconds.unwrap_or("60");
    let arguments =
        ["test", "--release", "-p", "towline", "--", "--ignored", "--nocapture", "soak"];
    step("soak", cargo(&arguments).env("TOWLINE_SOAK_SECONDS", seconds))
}
