//! What a session sees once it is logged in: the folders of one mailbox, and the selected one.
//!
//! Invariant: sequence numbers are the session's own. They change only in a report of EXPUNGE and
//! EXISTS, never inside FETCH, STORE or SEARCH (RFC 3501 section 7.4.1), whatever others do meanwhile.

use std::{collections::BTreeSet, time::SystemTime};

use super::{
    Answer, Failure,
    syntax::{Args, Command, Word},
};
use crate::emulator::{
    World, calendar,
    mailbox::{Folder, Folders, Message, folder_name, special_use},
    tokens::Grant,
};

/// A logged-in session's view.
pub(super) struct Desk<'a> {
    pub(super) world: &'a World,
    pub(super) grant: Grant,
    pub(super) selected: Option<Selected>,
}

/// The selected folder, as the client knows it.
pub(super) struct Selected {
    pub(super) name: String,
    pub(super) read_only: bool,
    /// UIDs in the order of their sequence numbers, from 1.
    pub(super) uids: Vec<u32>,
}

const NO_FOLDER: Failure = Failure::No("The mailbox does not exist.");

/// System flags that a client may set; `\Recent` is never given.
const FLAGS: &str = "\\Seen \\Answered \\Flagged \\Deleted \\Draft $MDNSent";

impl<'a> Desk<'a> {
    pub(super) fn new(world: &'a World, grant: Grant) -> Self {
        Self { world, grant, selected: None }
    }

    /// Obeys one command, and reports what has changed where the protocol allows it.
    pub(super) fn command(&mut self, command: &mut Command, out: &mut Vec<u8>) -> Answer {
        let args = &mut command.args;
        let answer = match command.name.as_str() {
            "NOOP" | "CHECK" | "SUBSCRIBE" | "UNSUBSCRIBE" => Ok(String::new()),
            "NAMESPACE" => done(out, "* NAMESPACE ((\"\" \"/\")) NIL NIL"),
            "LIST" | "LSUB" => self.list(&command.name, args, out),
            "STATUS" => self.status(args, out),
            "SELECT" | "EXAMINE" => return self.select(args, command.name == "EXAMINE", out),
            "CREATE" => self.create(args),
            "DELETE" => self.delete(args),
            "RENAME" => self.rename(args),
            "APPEND" => self.append(args),
            "CLOSE" => return self.close(true),
            "UNSELECT" => return self.close(false),
            name => return self.on_messages(name, args, out),
        };
        self.report_changes(out);
        answer
    }

    /// Looks at one folder of this mailbox.
    pub(super) fn read<T>(&self, folder: &str, look: impl FnOnce(&Folder) -> T) -> Option<T> {
        self.world.mail.read(&self.grant.mailbox, |folders| folders.get(folder).map(look))?
    }

    /// Changes the folders of this mailbox.
    pub(super) fn write<T>(&self, change: impl FnOnce(&mut Folders) -> T) -> Option<T> {
        self.world.mail.write(&self.grant.mailbox, change)
    }

    /// Tells of messages that went and came in the selected folder.
    pub(super) fn report_changes(&mut self, out: &mut Vec<u8>) {
        let Some(mut selected) = self.selected.take() else { return };
        let now = self.read(&selected.name, |folder| uids(&folder.messages)).unwrap_or_default();
        let present: BTreeSet<u32> = now.iter().copied().collect();
        // from the end, so that each number is still right when it is sent
        for (index, uid) in selected.uids.clone().iter().enumerate().rev() {
            if !present.contains(uid) {
                line(out, &format!("* {} EXPUNGE", index + 1));
                selected.uids.remove(index);
            }
        }
        if now.len() != selected.uids.len() {
            line(out, &format!("* {} EXISTS", now.len()));
            selected.uids = now;
        }
        self.selected = Some(selected);
    }

    fn list(&self, name: &str, args: &mut Args, out: &mut Vec<u8>) -> Answer {
        let pattern = args.text()? + &args.text()?;
        if pattern.is_empty() {
            return done(out, &format!("* {name} (\\Noselect) \"/\" \"\""));
        }
        let names = self
            .world
            .mail
            .read(&self.grant.mailbox, |folders| folders.keys().cloned().collect::<Vec<_>>());
        let names = names.unwrap_or_default();
        for folder in names.iter().filter(|folder| matches(pattern.as_bytes(), folder.as_bytes())) {
            let inside = format!("{folder}/");
            let children = names.iter().any(|other| other.starts_with(&inside));
            let children = if children { "\\HasChildren" } else { "\\HasNoChildren" };
            line(
                out,
                &format!("* {name} ({children}{}) \"/\" {}", special_use(folder), quote(folder)),
            );
        }
        Ok(String::new())
    }

    fn status(&self, args: &mut Args, out: &mut Vec<u8>) -> Answer {
        let name = folder_name(&args.text()?);
        let items = args.list()?;
        let values = self.read(&name, |folder| {
            let value = |item: &String| {
                let item = item.to_ascii_uppercase();
                let value = match item.as_str() {
                    "MESSAGES" => folder.messages.len().to_string(),
                    "RECENT" => "0".to_owned(),
                    "UIDNEXT" => folder.next_uid.to_string(),
                    "UIDVALIDITY" => folder.validity.to_string(),
                    "UNSEEN" => folder
                        .messages
                        .iter()
                        .filter(|message| !message.has("\\Seen"))
                        .count()
                        .to_string(),
                    _ => return Err(Failure::Bad),
                };
                Ok(format!("{item} {value}"))
            };
            items.iter().map(value).collect::<Result<Vec<_>, _>>()
        });
        done(out, &format!("* STATUS {} ({})", quote(&name), values.ok_or(NO_FOLDER)??.join(" ")))
    }

    fn select(&mut self, args: &mut Args, read_only: bool, out: &mut Vec<u8>) -> Answer {
        self.selected = None;
        let name = folder_name(&args.text()?);
        let (uids, validity, next, unseen) = self
            .read(&name, |folder| {
                let unseen = folder.messages.iter().position(|message| !message.has("\\Seen"));
                (uids(&folder.messages), folder.validity, folder.next_uid, unseen)
            })
            .ok_or(NO_FOLDER)?;
        line(out, &format!("* {} EXISTS", uids.len()));
        line(out, "* 0 RECENT");
        line(out, &format!("* FLAGS ({FLAGS})"));
        let permanent = if read_only { "" } else { FLAGS };
        line(out, &format!("* OK [PERMANENTFLAGS ({permanent})] Permanent flags"));
        if let Some(unseen) = unseen {
            line(out, &format!("* OK [UNSEEN {}] Is the first unseen message", unseen + 1));
        }
        line(out, &format!("* OK [UIDVALIDITY {validity}] UIDVALIDITY value"));
        line(out, &format!("* OK [UIDNEXT {next}] The next unique identifier value"));
        self.selected = Some(Selected { name, read_only, uids });
        Ok(if read_only { "READ-ONLY" } else { "READ-WRITE" }.to_owned())
    }

    fn create(&self, args: &mut Args) -> Answer {
        let name = folder_name(&args.text()?);
        self.write(|folders| {
            if name.is_empty() || folders.contains_key(&name) {
                return Err(Failure::No("[ALREADYEXISTS] Mailbox already exists."));
            }
            folders.insert(name, Folder::new());
            Ok(String::new())
        })
        .ok_or(NO_FOLDER)?
    }

    fn delete(&mut self, args: &mut Args) -> Answer {
        let name = folder_name(&args.text()?);
        if name == "INBOX" {
            return Err(Failure::No("The INBOX cannot be deleted."));
        }
        let removed = self.write(|folders| folders.remove(&name)).flatten();
        removed.map(|_| String::new()).ok_or(NO_FOLDER)
    }

    fn rename(&self, args: &mut Args) -> Answer {
        let (from, to) = (folder_name(&args.text()?), folder_name(&args.text()?));
        self.write(|folders| {
            if from == "INBOX" || folders.contains_key(&to) {
                return Err(Failure::No("The mailbox cannot be renamed."));
            }
            let folder = folders.remove(&from).ok_or(NO_FOLDER)?;
            folders.insert(to, folder);
            Ok(String::new())
        })
        .ok_or(NO_FOLDER)?
    }

    fn append(&self, args: &mut Args) -> Answer {
        let name = folder_name(&args.text()?);
        let flags = if args.peek() == Some(&Word::Open) { args.list()? } else { Vec::new() };
        let mut data = args.octets()?;
        let mut received = SystemTime::now();
        if args.peek().is_some() {
            received =
                calendar::parse_date_time(&String::from_utf8_lossy(&data)).ok_or(Failure::Bad)?;
            data = args.octets()?;
        }
        args.end()?;
        self.write(|folders| {
            let folder = folders
                .get_mut(&name)
                .ok_or(Failure::No("[TRYCREATE] The mailbox does not exist."))?;
            let uid = folder.add(&data, flags.into_iter().collect(), received);
            Ok(format!("APPENDUID {} {uid}", folder.validity))
        })
        .ok_or(NO_FOLDER)?
    }

    /// RFC 3501 section 6.4.2; UNSELECT (RFC 3691) is the same without the expunge.
    fn close(&mut self, expunge: bool) -> Answer {
        let selected = self.selected.take().ok_or(Failure::Bad)?;
        if expunge && !selected.read_only {
            self.write(|folders| {
                if let Some(folder) = folders.get_mut(&selected.name) {
                    folder.messages.retain(|message| !message.has("\\Deleted"));
                }
            });
        }
        Ok(String::new())
    }
}

pub(super) fn line(out: &mut Vec<u8>, line: &str) {
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn done(out: &mut Vec<u8>, text: &str) -> Answer {
    line(out, text);
    Ok(String::new())
}

fn uids(messages: &[Message]) -> Vec<u32> {
    messages.iter().map(|message| message.uid).collect()
}

/// A quoted string, RFC 3501 section 4.3.
pub(super) fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// LIST's wildcards: `*` is anything, `%` anything without a hierarchy separator.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((wild @ (b'*' | b'%'), rest)) => (0..=name.len())
            .take_while(|&skipped| {
                *wild == b'*' || !name.iter().take(skipped).any(|&octet| octet == b'/')
            })
            .any(|skipped| matches(rest, name.get(skipped..).unwrap_or_default())),
        Some((first, rest)) => name
            .split_first()
            .is_some_and(|(octet, tail)| first.eq_ignore_ascii_case(octet) && matches(rest, tail)),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn wildcards() {
        for (pattern, name, expected) in [
            ("*", "a/b", true),
            ("%", "a/b", false),
            ("a/%", "a/b", true),
            ("inbox", "INBOX", true),
            ("%b", "aab", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
