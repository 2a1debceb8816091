//! Landlock: which files a confined process opens.
//!
//! Invariant: it writes to its state folders and `/dev/null`, and executes nothing.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags, path_beneath_rules,
};

use super::Guard;

/// What a resolver, a TLS library and the C library read: configuration, roots, name services, locale. `/etc` as a
/// whole, because its files are replaced by others of the same name.
pub(super) const SYSTEM: [&str; 15] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/nix/store",
    "/var/lib/ca-certificates",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/nscd",
    "/dev/urandom",
    "/dev/null",
    "/proc/self",
    // Who holds the store.
    "/proc/locks",
    "/sys/fs/cgroup",
];

/// The newest rights that gatepost was tried with: those of files up to version 5, scopes of version 6.
const KNOWN: ABI = ABI::V6;

/// Opens these, and changes what is below `state`.
pub(super) fn restrict(read: &[PathBuf], state: &[PathBuf]) -> Result<Guard, RulesetError> {
    let status = Ruleset::default()
        // Before version 2 nothing can be renamed from folder to folder, which the spool lives by: then rather none.
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .scope(scopes())?
        .create()?
        .add_rules(path_beneath_rules(read, AccessFs::ReadFile | AccessFs::ReadDir))?
        .add_rules(path_beneath_rules(["/dev/null"], AccessFs::ReadFile | AccessFs::WriteFile))?
        .add_rules(path_beneath_rules(state, changes()))?
        .restrict_self()?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => {
            Guard::Missing("the kernel has no Landlock of version 2 or newer".into())
        }
        (_, LandlockStatus::Available { effective_abi, .. }) => {
            Guard::InForce(format!("Landlock {}", effective_abi as i32))
        }
        _ => Guard::InForce("Landlock".into()),
    })
}

fn changes() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{
        ReadFile | ReadDir | WriteFile | Truncate | RemoveFile | RemoveDir | MakeReg | MakeDir | Refer
    })
}

/// No signal and no abstract socket leads out, but for the service manager's if it has such a one.
fn scopes() -> BitFlags<Scope> {
    let manager = std::env::var("NOTIFY_SOCKET").unwrap_or_default();
    match manager.starts_with('@') {
        true => Scope::Signal.into(),
        false => Scope::Signal | Scope::AbstractUnixSocket,
    }
}
