//! Whom a user name means, however many accounts there are.
//!
//! Invariant: a look-up takes as long whether there is such a name or not, for a client can ask as well: each kind of
//! name is looked up, found or not, by a hash under a key of this process, so that nobody can choose what is compared.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::Account;

/// What old clients write between the person who opens a shared mailbox and the mailbox.
const SEPARATORS: [char; 2] = ['\\', '/'];

/// The accounts by their names, in lower case.
#[derive(Debug, Default)]
pub(super) struct Directory {
    /// Mailboxes, patterns as they are written, and aliases.
    named: HashMap<String, Arc<Account>>,
    /// How old clients name a shared mailbox; none: several have that name.
    old_style: HashMap<String, Option<Arc<Account>>>,
    /// By their domains.
    patterns: HashMap<String, Arc<Account>>,
}

/// A name that two accounts can't have.
pub(super) struct Taken {
    /// Of the account's names: its mailbox, then its aliases.
    pub(super) index: usize,
    /// The mailbox of the one that has it.
    pub(super) by: String,
}

impl Directory {
    pub(super) fn with_capacity(accounts: usize) -> Self {
        Self { named: HashMap::with_capacity(accounts), ..Self::default() }
    }

    /// Unless another one has a name of its already.
    pub(super) fn add(&mut self, account: &Arc<Account>) -> Result<(), Taken> {
        let names = std::iter::once(&account.mailbox).chain(&account.aliases);
        for (index, name) in names.enumerate() {
            let named = self.named.entry(name.to_lowercase());
            let named = named.or_insert_with(|| Arc::clone(account));
            if !Arc::ptr_eq(named, account) {
                return Err(Taken { index, by: named.mailbox.clone() });
            }
        }
        match account.pattern() {
            Some(domain) => {
                let pattern = self.patterns.entry(domain.to_ascii_lowercase());
                pattern.or_insert_with(|| Arc::clone(account));
            }
            None => self.add_old_style(account),
        }
        Ok(())
    }

    /// The person who opens a shared mailbox, then the mailbox or its name alone: `jane@contoso.com\support`.
    fn add_old_style(&mut self, account: &Arc<Account>) {
        let person = account.signed_in_as.as_ref().filter(|person| !person.contains(SEPARATORS));
        let Some(person) = person.map(|person| person.to_lowercase()) else { return };
        let mailbox = account.mailbox.to_lowercase();
        let short = mailbox.split('@').next().filter(|short| !short.is_empty());
        for shared in std::iter::once(mailbox.as_str()).chain(short) {
            match self.old_style.entry(old_style(&person, shared)) {
                Entry::Vacant(free) => drop(free.insert(Some(Arc::clone(account)))),
                Entry::Occupied(mut taken) => {
                    taken.get_mut().take_if(|other| !Arc::ptr_eq(other, account));
                }
            }
        }
    }

    /// The one that has this name of its own, letter case aside.
    pub(super) fn named(&self, name: &str) -> Option<&Arc<Account>> {
        self.named.get(&name.to_lowercase())
    }

    /// The one that has `mailbox`: by its own names, else by a pattern, which is then the answer.
    pub(super) fn owner(&self, mailbox: &str) -> Option<&Arc<Account>> {
        let named = self.named(mailbox).filter(|account| account.pattern().is_none());
        let pattern = self.pattern(mailbox);
        named.or(pattern)
    }

    /// The one that old clients name so, if that is one alone.
    pub(super) fn named_in_old_style(&self, user: &str) -> Option<&Arc<Account>> {
        let (person, shared) = user.split_once(SEPARATORS).unwrap_or((user, ""));
        let name = old_style(&person.to_lowercase(), &shared.to_lowercase());
        self.old_style.get(&name)?.as_ref()
    }

    fn pattern(&self, mailbox: &str) -> Option<&Arc<Account>> {
        let (name, domain) = mailbox.rsplit_once('@').unwrap_or(("", mailbox));
        let pattern = self.patterns.get(&domain.to_ascii_lowercase());
        pattern.filter(|_| !matches!(name, "" | "*"))
    }
}

fn old_style(person: &str, shared: &str) -> String {
    format!("{person}\\{shared}")
}
