//! The configuration that mail is delivered by, and the ways to the provider that it leads to.
//!
//! Invariant: the two belong together, and are exchanged together.

use std::sync::{Arc, PoisonError, RwLock};

use super::dispatch::Couriers;
use crate::config::Config;

/// See the module.
pub(super) struct Current(RwLock<Arc<Setup>>);

/// One configuration's.
pub(super) struct Setup {
    pub(super) config: Arc<Config>,
    pub(super) couriers: Couriers,
}

impl Current {
    pub(super) fn new(config: Arc<Config>, couriers: Couriers) -> Self {
        Self(RwLock::new(Arc::new(Setup { config, couriers })))
    }

    pub(super) fn get(&self) -> Arc<Setup> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set(&self, config: Arc<Config>, couriers: Couriers) {
        let setup = Arc::new(Setup { config, couriers });
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = setup;
    }
}
