//! Where things lie: the workspace, the user's cache, the tools.

use std::path::{Path, PathBuf};

use crate::Result;

/// The root of the workspace: the folder above this crate.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies inside the workspace")
        .to_path_buf()
}

/// The links to the tools. It stays in the workspace when `CARGO_TARGET_DIR` points elsewhere, so that tests
/// that were started by hand find it without asking anybody; the environment variable `QUORATE_TOOLS` overrides it there.
pub(crate) fn tools_dir() -> PathBuf {
    workspace().join("target/tools")
}

/// `$XDG_CACHE_HOME/quorate`, or `~/.cache/quorate`: what is dear to build and belongs to no clone.
pub(crate) fn cache() -> Result<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let base = set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .ok_or("neither XDG_CACHE_HOME nor HOME is set, so there is no place for a cache; set one of them")?;
    Ok(base.join("quorate"))
}

/// FNV-1a, 64 bit: a name for contents, not a protection against anybody.
pub(crate) fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        // The length in front keeps ("ab", "c") and ("a", "bc") apart.
        for byte in (part.len() as u64).to_le_bytes().iter().chain(part) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::fingerprint;

    #[test]
    fn a_fingerprint_sees_contents_and_borders() {
        let of = |parts: &[&str]| fingerprint(parts.iter().map(|part| part.as_bytes()));
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["ab", "c"]), of(&["ab", "d"]));
    }
}
