//! The options of a `bats://` address.

use std::time::Duration;

use towline_proto::bats::congestion::Control;
use towline_proto::bats::endpoint::HopAddress;
use towline_proto::bats::flow::{BatchSize, FlowConfig, Mode};

use crate::address::{Address, Wire};
use crate::error::AddressError;

/// Relays that an address may name: a route has one node less than it may be long, for the target.
const MAX_RELAYS: usize = 15;

/// What the query of an address says, with defaults for the rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Options {
    pub(crate) flow: FlowConfig,
    /// Relays to pass, in this order.
    pub(crate) via: Vec<HopAddress>,
    pub(crate) control: Control,
}

/// What a value was to be.
type Expected = &'static str;

impl Options {
    /// The options of a parsed address.
    pub(crate) fn of(address: &Address) -> Options {
        // An address is only made when its options are as they should be.
        parse(query_of(address.path())).map(|(options, _)| options).unwrap_or_default()
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Expected> {
        let flow = &mut self.flow;
        match name {
            "mode" => match value {
                // The defaults of the mode are there before any option is looked at.
                "brtp" | "btp" | "brctp" => {}
                "transparent" => flow.mode = Mode::Transparent,
                _ => return Err("brtp, btp, brctp or transparent"),
            },
            "via" => {
                let relays: Result<Vec<_>, _> = value.split(',').map(str::parse).collect();
                self.via = relays.map_err(|_| "relays, as host:port with commas in between")?;
                if self.via.len() > MAX_RELAYS {
                    return Err("at most 15 relays");
                }
            }
            "relayed" => flow.relayed = switch(value)?,
            "control" => {
                self.control = match value {
                    "coded" => Control::Coded,
                    "bbr3" => Control::Bbr3,
                    "cubic" => Control::Cubic,
                    "none" => {
                        return Err(
                            "coded, bbr3 or cubic; none is for mode=transparent, or fixed:RATE forces a rate whatever happens",
                        );
                    }
                    _ => match value.strip_prefix("fixed:").map(rate) {
                        Some(Some(rate)) => Control::Fixed(rate),
                        Some(None) => {
                            return Err(
                                "fixed:RATE with bits per second from 8k to 100G, such as fixed:20M",
                            );
                        }
                        None => return Err("coded, bbr3, cubic or fixed:RATE"),
                    },
                }
            }
            "deadline" => {
                const RANGE: Expected = "a number of milliseconds from 1 to 8000";
                let ms: u64 = value.parse().map_err(|_| RANGE)?;
                if !(1..=8000).contains(&ms) {
                    return Err(RANGE);
                }
                flow.deadline = Duration::from_millis(ms);
            }
            "batch" => {
                flow.batch = match value {
                    "8" => BatchSize::M8,
                    "16" => BatchSize::M16,
                    "32" => BatchSize::M32,
                    _ => return Err("8, 16 or 32"),
                }
            }
            "interleave" => {
                const RANGE: Expected = "a number from 1 to 64";
                flow.interleave = value.parse().map_err(|_| RANGE)?;
                if !(1..=64).contains(&flow.interleave) {
                    return Err(RANGE);
                }
            }
            "hop_feedback" => flow.hop_feedback = switch(value)?,
            "compress" => flow.compress = switch(value)?,
            _ => {
                return Err(
                    "left out: the options are mode, via, relayed, control, deadline, batch, interleave, hop_feedback and compress",
                );
            }
        }
        Ok(())
    }
}

/// Bits per second, with a suffix for powers of 1,000; as bytes.
fn rate(text: &str) -> Option<u64> {
    let (number, factor) = match text.as_bytes().last()? {
        b'k' | b'K' => (text.get(..text.len() - 1)?, 1_000),
        b'M' => (text.get(..text.len() - 1)?, 1_000_000),
        b'G' => (text.get(..text.len() - 1)?, 1_000_000_000),
        _ => (text, 1),
    };
    let bits = number.parse::<u64>().ok()?.checked_mul(factor)?;
    (8_000..=100_000_000_000).contains(&bits).then_some(bits / 8)
}

fn switch(value: &str) -> Result<bool, Expected> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off"),
    }
}

fn query_of(path: &str) -> &str {
    path.split_once('?').map_or("", |(_, query)| query)
}

/// The options, and the names of those that were given; or name, value and what was expected.
fn parse(query: &str) -> Result<(Options, Vec<&str>), (&str, &str, Expected)> {
    let mut options = Options::default();
    for pair in query.split('&') {
        match pair {
            "mode=btp" => options.flow = FlowConfig::btp(),
            "mode=brctp" => options.flow = FlowConfig::brctp(),
            _ => {}
        }
    }
    let mut given = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if given.contains(&name) {
            return Err((name, value, "given once"));
        }
        options.set(name, value).map_err(|expected| (name, value, expected))?;
        given.push(name);
    }
    Ok((options, given))
}

fn refused(url: &str, (name, value, expected): (&str, &str, Expected)) -> AddressError {
    AddressError::BadOption { url: url.into(), option: name.into(), value: value.into(), expected }
}

/// Which wire the path and query of a `bats://` address make it, and what of them the address keeps.
pub(crate) fn wire_of(url: &str, path: Box<str>) -> Result<(Wire, Box<str>), AddressError> {
    if path.starts_with('/') && !path.starts_with("/?") {
        return Err(AddressError::Unexpected { url: url.into(), part: path });
    }
    let (options, given) = parse(query_of(&path)).map_err(|error| refused(url, error))?;
    let other = |allowed: &[&str]| given.iter().find(|name| !allowed.contains(name)).copied();
    Ok(match options.flow.mode {
        Mode::Transparent => match other(&["mode"]) {
            Some(name) => {
                let expected = "left out with mode=transparent, which has no relays and no coding";
                return Err(refused(url, (name, "", expected)));
            }
            None => (Wire::Udp, Box::default()),
        },
        Mode::Btp => (Wire::Btp, path),
        Mode::Brctp => match given.iter().find(|name| ["interleave", "deadline"].contains(name)) {
            Some(name) => return Err(refused(url, (name, "", "left out with mode=brctp"))),
            None => (Wire::Brctp, path),
        },
        _ if given.contains(&"deadline") => {
            return Err(refused(url, ("deadline", "", "left out but with mode=btp")));
        }
        _ => (Wire::Bats, path),
    })
}

/// Whether a listener's address says more than a listener may.
pub(crate) fn check_listener(address: &Address) -> Result<(), AddressError> {
    let given = parse(query_of(address.path())).map(|(_, given)| given).unwrap_or_default();
    match given.iter().find(|name| !["mode", "control", "compress"].contains(name)) {
        Some(name) => {
            let expected = "left out of a listener's address: the client says it";
            Err(refused(&address.to_string(), (name, "", expected)))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use towline_proto::bats::flow::Framing;

    use super::*;

    fn options(url: &str) -> Options {
        Options::of(&Address::parse(url).unwrap())
    }

    #[test]
    fn an_address_says_mode_path_and_parameters() {
        assert_eq!(options("bats://h:1"), Options::default());
        let url = "bats://h:1/?mode=btp&via=a:2,[::1]:3&deadline=250&interleave=1&batch=8";
        let address = Address::parse(url).unwrap();
        assert_eq!(address.wire(), Wire::Btp);
        assert_eq!(address.to_string(), url);
        assert_eq!(Address::parse(&address.to_string()).unwrap(), address);
        let made = Options::of(&address);
        assert_eq!(options("bats://h:1?mode=btp").flow, FlowConfig::btp());
        assert_eq!(options("bats://h:1?mode=brctp").flow, FlowConfig::brctp());
        assert_eq!(Address::parse("bats://h:1?mode=brctp").unwrap().wire(), Wire::Brctp);
        assert_eq!((made.flow.mode, made.flow.framing), (Mode::Btp, Framing::Messages));
        assert_eq!(made.flow.deadline, Duration::from_millis(250));
        assert_eq!(made.flow.interleave, 1);
        let via: Vec<_> = made.via.iter().map(ToString::to_string).collect();
        assert_eq!(via, ["a:2", "[::1]:3"]);
        assert!(made.flow.check().is_ok());
        assert!(options("bats://h:1?relayed=on").flow.relayed);
        assert_eq!(options("bats://h:1?control=cubic").control, Control::Cubic);
        for (text, rate) in
            [("8k", 1_000), ("20M", 2_500_000), ("1G", 125_000_000), ("8001", 1_000)]
        {
            let control = options(&format!("bats://h:1?control=fixed:{text}")).control;
            assert_eq!(control, Control::Fixed(rate), "{text}");
        }
        assert!(!options("bats://h:1?hop_feedback=off").flow.hop_feedback);
        assert!(options("bats://h:1?mode=btp&compress=on").flow.compress);
        let plain = Address::parse("bats://h:1?mode=transparent").unwrap();
        assert_eq!(plain.to_string(), "udp://h:1");
    }

    #[test]
    fn relays_are_divided_by_commas_and_so_are_addresses() {
        use crate::IntoAddresses;
        let list = "bats://a:1?via=r:2,s:3, tls://b:4".into_addresses().unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(Options::of(&list[0]).via.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        let many = format!("via={}", vec!["r:1"; 16].join(","));
        for (query, says) in [
            ("mode=tcp", "brtp, btp, brctp or transparent"),
            ("mode=brctp&interleave=2", "left out with mode=brctp"),
            ("mode=brctp&deadline=100", "left out with mode=brctp"),
            ("via=r", "host:port"),
            ("via=", "host:port"),
            (&*many, "at most 15"),
            ("deadline=9000&mode=btp", "1 to 8000"),
            ("deadline=100", "mode=btp"),
            ("interleave=65", "1 to 64"),
            ("batch=7", "8, 16 or 32"),
            ("relayed=maybe", "on or off"),
            ("control=none", "transparent"),
            ("control=fixed:", "fixed:20M"),
            ("control=fixed:7999", "8k to 100G"),
            ("control=fixed:99999999999G", "8k to 100G"),
            ("control=fixed:-1", "8k to 100G"),
            ("speed=9", "the options are"),
            ("mode=btp&mode=brtp", "once"),
            ("mode=transparent&via=r:1", "no relays"),
        ] {
            let error = Address::parse(&format!("bats://h:1?{query}")).unwrap_err();
            assert!(matches!(error, AddressError::BadOption { .. }), "{query}: {error:?}");
            assert!(error.to_string().contains(says), "{query}: {error}");
        }
        assert!(matches!(Address::parse("bats://h:1/path"), Err(AddressError::Unexpected { .. })));
        for query in ["mode=btp", "mode=brctp&compress=on"] {
            assert!(
                check_listener(&Address::parse(&format!("bats://h:1?{query}")).unwrap()).is_ok()
            );
        }
        assert!(check_listener(&Address::parse("bats://h:1?via=r:1").unwrap()).is_err());
    }
}
