//! Names from the peer, and where they may lead.

use std::path::{Path, PathBuf};

/// Bytes of one part of a path, and of a whole one, as most file systems have them; room for our suffixes is left.
const MAX_PART: usize = 240;
const MAX_NAME: usize = 4000;

/// Checks a name from the peer: relative, with no part that leads elsewhere.
pub(super) fn check(name: &str) -> Result<(), String> {
    let shown = || name.escape_debug().take(200).collect::<String>();
    if name.is_empty() || name.len() > MAX_NAME {
        return Err("a name must have 1 to 4,000 bytes".into());
    }
    for part in name.split('/') {
        let wrong = part.is_empty()
            || part == "."
            || part == ".."
            || part.len() > MAX_PART
            || part.contains(['\\', '\0'])
            || part.chars().any(char::is_control);
        if wrong {
            return Err(format!("the name `{}` leads elsewhere or cannot be written", shown()));
        }
        if part.ends_with(".towline-part") || part.ends_with(".towline-state") {
            return Err(format!("`{}` is a name for unfinished files", shown()));
        }
    }
    Ok(())
}

/// Where it goes below `directory`, none of whose directories may be a symbolic link that somebody put there.
pub(super) fn resolve(directory: &Path, name: &str) -> Result<PathBuf, String> {
    check(name)?;
    let mut path = directory.to_path_buf();
    let mut parts = name.split('/').peekable();
    while let Some(part) = parts.next() {
        path.push(part);
        let link = path.symlink_metadata().is_ok_and(|found| found.file_type().is_symlink());
        if link && parts.peek().is_some() {
            return Err(format!("{} is a symbolic link", path.display()));
        }
    }
    Ok(path)
}

/// The unfinished file, and what is known of it.
pub(super) fn unfinished(path: &Path) -> (PathBuf, PathBuf) {
    let with = |suffix: &str| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        path.with_file_name(name)
    };
    (with(".towline-part"), with(".towline-state"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for good in ["a", "a/b/c", "a b", ".hidden", "..a", "ä"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let long = "x".repeat(241);
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "a//b",
            "a/",
            ".",
            "./a",
            "a\\b",
            "a\0b",
            "a\nb",
            "x.towline-part",
            "d.towline-state/x",
            &long,
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn unfinished_files_are_beside_the_finished_one() {
        let (part, state) = unfinished(Path::new("/d/x.tar"));
        assert_eq!(part, Path::new("/d/x.tar.towline-part"));
        assert_eq!(state, Path::new("/d/x.tar.towline-state"));
    }
}
