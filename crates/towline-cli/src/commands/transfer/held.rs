//! Which sender writes to which name.
//!
//! Two senders may give one name at the same time, and one that was started again gives what the one before it, perhaps not yet known to be gone,
//! had begun. The last one that offers a name has it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::receiver::Incoming;

/// Names that are looked through for those whose senders have gone, when there are more than twice as many as at the last time.
const FEW: usize = 1024;

#[derive(Default)]
struct Names {
    by_path: HashMap<PathBuf, Weak<Incoming>>,
    /// When to look for the gone ones.
    many: usize,
}

/// The names that are written to.
#[derive(Default)]
pub(super) struct Held(Mutex<Names>);

impl Held {
    /// Gives the name to this sender. When it returns, nobody else writes to the name any more.
    pub(super) fn take_over(&self, path: &Path, incoming: &Arc<Incoming>) {
        let before = {
            let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if names.by_path.len() > names.many.max(FEW) {
                names.by_path.retain(|_, held| held.strong_count() > 0);
                names.many = 2 * names.by_path.len();
            }
            names.by_path.insert(path.to_owned(), Arc::downgrade(incoming))
        };
        if let Some(before) = before.and_then(|before| before.upgrade()) {
            before.take();
        }
    }
}
