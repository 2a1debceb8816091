//! Commands on the messages of the selected folder.
//!
//! Invariant: numbers of a set are resolved against what the client knows ([`super::desk::Selected`]),
//! so that a message that another session removed is skipped, never mistaken for its neighbour.

use std::collections::BTreeSet;

use super::{
    Answer, Failure, content,
    content::{Item, Parser},
    desk::{Desk, Selected, line},
    search,
    syntax::{Args, Set},
};
use crate::emulator::{
    calendar::Moment,
    mailbox::{Message, folder_name},
};

/// A message and its sequence number.
pub(super) type Numbered = (u32, Message);

const READ_ONLY: Failure = Failure::No("The mailbox is read-only.");

impl Desk<'_> {
    pub(super) fn on_messages(&mut self, name: &str, args: &mut Args, out: &mut Vec<u8>) -> Answer {
        if self.selected.is_none() {
            return Err(Failure::Bad);
        }
        let (by_uid, verb) = name.strip_prefix("UID ").map_or((false, name), |verb| (true, verb));
        let answer = match verb {
            "FETCH" => return self.fetch(by_uid, args, out),
            "STORE" => return self.store(by_uid, args, out),
            "SEARCH" => return self.search(by_uid, args, out),
            "COPY" => self.copy(by_uid, args).map(|(code, _)| code),
            "MOVE" => self.relocate(by_uid, args, out),
            "EXPUNGE" => self.expunge(by_uid, args),
            _ => Err(Failure::Bad),
        };
        self.report_changes(out);
        answer
    }

    /// All messages that the client knows of and that still exist.
    fn known(&self) -> Vec<Numbered> {
        let Some(selected) = &self.selected else { return Vec::new() };
        let number = |uid: u32| {
            selected.uids.binary_search(&uid).ok().and_then(|index| u32::try_from(index + 1).ok())
        };
        let known = self.read(&selected.name, |folder| {
            folder
                .messages
                .iter()
                .filter_map(|message| Some((number(message.uid)?, message.clone())))
                .collect()
        });
        known.unwrap_or_default()
    }

    fn chosen(&self, set: &Set, by_uid: bool) -> Vec<Numbered> {
        let mut known = self.known();
        let largest =
            known.last().map_or(0, |(number, message)| if by_uid { message.uid } else { *number });
        known.retain(|(number, message)| {
            set.holds(if by_uid { message.uid } else { *number }, largest)
        });
        known
    }

    fn fetch(&self, by_uid: bool, args: &mut Args, out: &mut Vec<u8>) -> Answer {
        let set = args.set()?;
        let mut items = Parser(args).items()?;
        if by_uid && !items.contains(&Item::Uid) {
            items.insert(0, Item::Uid);
        }
        let writable = self.selected.as_ref().is_some_and(|selected| !selected.read_only);
        for (number, mut message) in self.chosen(&set, by_uid) {
            let marks = writable && items.iter().any(Item::marks_seen) && !message.has("\\Seen");
            if marks {
                self.change(message.uid, |message| _ = message.flags.insert("\\Seen".to_owned()));
                message.flags.insert("\\Seen".to_owned());
            }
            out.extend_from_slice(format!("* {number} FETCH (").as_bytes());
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b' ');
                }
                write_item(item, &message, out);
            }
            if marks && !items.contains(&Item::Flags) {
                out.push(b' ');
                write_item(&Item::Flags, &message, out);
            }
            line(out, ")");
        }
        Ok(String::new())
    }

    fn store(&self, by_uid: bool, args: &mut Args, out: &mut Vec<u8>) -> Answer {
        let set = args.set()?;
        let action = args.atom()?.to_ascii_uppercase();
        let flags: BTreeSet<String> = args.list()?.into_iter().collect();
        if !self.writable() {
            return Err(READ_ONLY);
        }
        let (action, silent) =
            action.strip_suffix(".SILENT").map_or((action.as_str(), false), |a| (a, true));
        if !["FLAGS", "+FLAGS", "-FLAGS"].contains(&action) {
            return Err(Failure::Bad);
        }
        for (number, mut message) in self.chosen(&set, by_uid) {
            match action {
                "FLAGS" => message.flags = flags.clone(),
                "+FLAGS" => message.flags.extend(flags.iter().cloned()),
                _ => message
                    .flags
                    .retain(|held| !flags.iter().any(|flag| flag.eq_ignore_ascii_case(held))),
            }
            self.change(message.uid, |stored| stored.flags = message.flags.clone());
            if !silent {
                out.extend_from_slice(format!("* {number} FETCH (").as_bytes());
                write_item(&Item::Flags, &message, out);
                let uid = if by_uid { format!(" UID {})", message.uid) } else { ")".to_owned() };
                line(out, &uid);
            }
        }
        Ok(String::new())
    }

    fn search(&self, by_uid: bool, args: &mut Args, out: &mut Vec<u8>) -> Answer {
        let known = self.known();
        let found = search::run(args, &known)?;
        let mut reply = "* SEARCH".to_owned();
        for (number, message) in found {
            reply.push_str(&format!(" {}", if by_uid { message.uid } else { *number }));
        }
        line(out, &reply);
        Ok(String::new())
    }

    /// The response code of RFC 4315 section 3, and the UIDs that were copied.
    fn copy(&self, by_uid: bool, args: &mut Args) -> Result<(String, BTreeSet<u32>), Failure> {
        let set = args.set()?;
        let name = folder_name(&args.text()?);
        let messages = self.chosen(&set, by_uid);
        let copied: BTreeSet<u32> = messages.iter().map(|(_, message)| message.uid).collect();
        let copies = self.write(|folders| {
            let folder = folders.get_mut(&name)?;
            let copy = |(_, message): Numbered| {
                folder.add(&message.data, message.flags, message.received).to_string()
            };
            let uids: Vec<String> = messages.into_iter().map(copy).collect();
            Some((folder.validity, uids))
        });
        let (validity, uids) =
            copies.flatten().ok_or(Failure::No("[TRYCREATE] The mailbox does not exist."))?;
        let from: Vec<String> = copied.iter().map(u32::to_string).collect();
        let code = match uids.is_empty() {
            true => String::new(),
            false => format!("COPYUID {validity} {} {}", from.join(","), uids.join(",")),
        };
        Ok((code, copied))
    }

    /// RFC 6851: the code comes before the EXPUNGE responses, in an untagged OK.
    fn relocate(&self, by_uid: bool, args: &mut Args, out: &mut Vec<u8>) -> Answer {
        if !self.writable() {
            return Err(READ_ONLY);
        }
        let (code, moved) = self.copy(by_uid, args)?;
        if !code.is_empty() {
            line(out, &format!("* OK [{code}]"));
        }
        self.remove(&moved);
        Ok(String::new())
    }

    fn expunge(&self, by_uid: bool, args: &mut Args) -> Answer {
        if !self.writable() {
            return Err(READ_ONLY);
        }
        let mut messages = if by_uid { self.chosen(&args.set()?, true) } else { self.known() };
        messages.retain(|(_, message)| message.has("\\Deleted"));
        self.remove(&messages.iter().map(|(_, message)| message.uid).collect());
        Ok(String::new())
    }

    fn writable(&self) -> bool {
        matches!(self.selected, Some(Selected { read_only: false, .. }))
    }

    fn remove(&self, uids: &BTreeSet<u32>) {
        let Some(selected) = &self.selected else { return };
        self.write(|folders| folders.get_mut(&selected.name).map(|folder| folder.remove(uids)));
    }

    fn change(&self, uid: u32, change: impl FnOnce(&mut Message)) {
        let Some(selected) = &self.selected else { return };
        self.write(|folders| {
            let folder = folders.get_mut(&selected.name)?;
            folder.messages.iter_mut().find(|message| message.uid == uid).map(change)
        });
    }
}

fn write_item(item: &Item, message: &Message, out: &mut Vec<u8>) {
    let text = match item {
        Item::Flags => {
            let flags: Vec<&str> = message.flags.iter().map(String::as_str).collect();
            format!("FLAGS ({})", flags.join(" "))
        }
        Item::Uid => format!("UID {}", message.uid),
        Item::InternalDate => {
            format!("INTERNALDATE \"{:>26}\"", Moment::from(message.received).imap())
        }
        Item::Size => format!("RFC822.SIZE {}", message.data.len()),
        Item::Envelope => format!("ENVELOPE {}", content::envelope(&message.data)),
        Item::Structure(name) => {
            format!("{name} {}", content::structure(&message.data, name == "BODYSTRUCTURE"))
        }
        Item::Section { label, section, .. } => {
            return match section.of(&message.data) {
                Some(octets) => {
                    out.extend_from_slice(format!("{label} {{{}}}\r\n", octets.len()).as_bytes());
                    out.extend_from_slice(&octets);
                }
                None => out.extend_from_slice(format!("{label} NIL").as_bytes()),
            };
        }
    };
    out.extend_from_slice(text.as_bytes());
}
