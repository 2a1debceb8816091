//! A wrapper that keeps secrets out of logs, errors and core memory that is done with.
//!
//! Invariant: a `Secret` is never printed. It has no `Display`, `Deref` or `Serialize`, its `Debug` is
//! redacted, and its memory is wiped when it is dropped. Clones share one memory, which goes with the last of
//! them. The one way in is [`Secret::expose`], so that `grep expose` finds every place where a secret is used.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroize;

/// A password, token or key. See the module's invariant.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret<T: Zeroize>(Arc<Wiped<T>>);

#[derive(Default, PartialEq, Eq)]
struct Wiped<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Takes charge of `value`.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Wiped(value)))
    }

    /// The secret itself, for the moment of its use.
    pub fn expose(&self) -> &T {
        &self.0.0
    }
}

impl<T: Zeroize> Drop for Wiped<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_redacted() {
        let secret = Secret::new(String::from("hunter2"));
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(secret.expose(), "hunter2");
    }
}
