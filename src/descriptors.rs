//! How many files and connections this process may have open.
//!
//! Invariant: what the system allows is taken, and nothing beyond it is asked for.

/// As many as the hard limit allows. The soft one is 1,024 on most systems, for programs that use `select` (systemd's
/// "File Descriptor Limits"), which gatepost does not; a session takes two. The answer is how many there may be, none
/// if that can't be told.
#[cfg(unix)]
pub fn raise_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // macOS has no limit here and refuses it all the same: what there is stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    getrlimit(Resource::Nofile).current
}

/// Windows has no such limit.
#[cfg(not(unix))]
pub fn raise_limit() -> Option<u64> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use rustix::process::{Resource, getrlimit};

    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let raised = raise_limit();
        let limits = getrlimit(Resource::Nofile);
        assert_eq!((raised, limits.current), (limits.current, limits.maximum));
    }
}
