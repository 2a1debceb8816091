//! The configuration is exchanged while gatepost runs, and gatepost stops while it is used.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `proxy` | the proxy as a process |
//! | `reloads` | what another configuration changes, and what it leaves alone |
//! | `files` | configurations that can't be read, or can't be had |
//! | `stops` | what sessions hear of a stop |

mod files;
mod proxy;
mod reloads;
mod stops;
