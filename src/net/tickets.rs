//! What TLS sessions with one server are resumed by: a handshake without the server's certificate and its signatures.
//!
//! rustls's own memory has eight tickets for a name. One of TLS 1.3 is used once (RFC 8446 section C.4), and logins come
//! in bursts.
//!
//! Invariant: in memory alone, and of one configuration of TLS: who is trusted otherwise, begins anew.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// Tickets of one name: as many logins as come at once when a site's clients start. The newest are kept.
const TICKETS: usize = 32;

/// Names. A mail server has one, and the proxy on the way to it another.
const NAMES: usize = 16;

/// The memory of one configuration.
#[derive(Debug, Default)]
pub(super) struct Tickets(Mutex<HashMap<ServerName<'static>, OfName>>);

#[derive(Debug, Default)]
struct OfName {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
}

type Names = HashMap<ServerName<'static>, OfName>;

impl Tickets {
    fn lock(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, name: ServerName<'static>, set: impl FnOnce(&mut OfName)) {
        let mut names = self.lock();
        if names.len() < NAMES || names.contains_key(&name) {
            set(names.entry(name).or_default());
        }
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.set(server_name, |of_name| of_name.group = Some(group));
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.lock().get(server_name)?.group
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.set(server_name, |of_name| of_name.tls12 = Some(value));
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.lock().get(server_name)?.tls12.clone()
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        if let Some(of_name) = self.lock().get_mut(server_name) {
            of_name.tls12 = None;
        }
    }

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        self.set(server_name, |of_name| {
            if of_name.tls13.len() == TICKETS {
                of_name.tls13.pop_front();
            }
            of_name.tls13.push_back(value);
        });
    }

    fn take_tls13_ticket(
        &self,
        server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        self.lock().get_mut(server_name)?.tls13.pop_back()
    }
}
