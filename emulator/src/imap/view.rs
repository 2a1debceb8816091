//! What a session sees once it is logged in: the folders of one mailbox, and the selected one.
//!
//! Invariant: sequence numbers are the session's own. They change only in a report of EXPUNGE and
//! EXISTS, never inside FETCH, STORE or SEARCH (RFC 3501 section 7.4.1), whatever others do meanwhile.

use std::{collections::BTreeSet, sync::Mutex};

use super::{
    Answer, Failure,
    fetch::{Item, field_holds},
    syntax::{Command, Set, Words},
};
use crate::{
    calendar::{self, Style},
    locked,
    mailbox::{Folder, Folders, Message},
};

/// A logged-in session's view.
pub(super) struct View<'a> {
    folders: &'a Mutex<Folders>,
    selected: Option<String>,
    read_only: bool,
    /// UIDs in the order of their sequence numbers, from 1, as the client knows them.
    uids: Vec<u32>,
    /// Untagged responses, to be sent before the tagged one.
    pub(super) out: Vec<u8>,
}

const DONE: Answer = Ok(String::new());
const NO_FOLDER: Failure = Failure::No("[TRYCREATE] The mailbox does not exist.");
const READ_ONLY: Failure = Failure::No("The mailbox is read-only.");

/// Flags that a client may set; `\Recent` is never given.
const FLAGS: &str = "\\Seen \\Answered \\Flagged \\Deleted \\Draft $MDNSent";

impl<'a> View<'a> {
    pub(super) fn new(folders: &'a Mutex<Folders>) -> Self {
        Self { folders, selected: None, read_only: false, uids: Vec::new(), out: Vec::new() }
    }

    /// Obeys one command, and reports what has changed where the protocol allows it.
    pub(super) fn command(&mut self, command: &mut Command) -> Answer {
        let (name, by_uid, words) = (command.name.as_str(), command.by_uid, &mut command.words);
        let folders = &mut *locked(self.folders);
        let answer = match name {
            "NOOP" | "CHECK" | "SUBSCRIBE" | "UNSUBSCRIBE" => DONE,
            "NAMESPACE" => self.untagged("NAMESPACE ((\"\" \"/\")) NIL NIL"),
            "LIST" | "LSUB" => self.list(folders, name, words),
            "STATUS" => self.status(folders, words),
            "CREATE" => create(folders, words),
            "DELETE" => delete(folders, words),
            "APPEND" => append(folders, words),
            "SELECT" | "EXAMINE" => return self.select(folders, words, name == "EXAMINE"),
            _ => self.on_messages(folders, name, by_uid, words),
        };
        if !["FETCH", "STORE", "SEARCH"].contains(&name) {
            self.report(folders);
        }
        answer
    }

    /// Tells of messages that went and came in the selected folder.
    pub(super) fn report_changes(&mut self) {
        self.report(&locked(self.folders));
    }

    fn report(&mut self, folders: &Folders) {
        let Some(name) = &self.selected else { return };
        let now = folders.get(name).map_or_else(Vec::new, Folder::uids);
        // from the end, so that each number is still right when it is sent
        for index in (0..self.uids.len()).rev() {
            if self.uids.get(index).is_some_and(|uid| now.binary_search(uid).is_err()) {
                self.uids.remove(index);
                let _ = self.untagged(&format!("{} EXPUNGE", index + 1));
            }
        }
        if now.len() != self.uids.len() {
            let _ = self.untagged(&format!("{} EXISTS", now.len()));
            self.uids = now;
        }
    }

    /// Wildcards stand for everything: there is no hierarchy worth a pattern here.
    fn list(&mut self, folders: &Folders, name: &str, words: &mut Words) -> Answer {
        let pattern = words.text()? + &words.text()?;
        if pattern.is_empty() {
            return self.untagged(&format!("{name} (\\Noselect) \"/\" \"\""));
        }
        for folder in folders.keys() {
            if pattern.contains(['*', '%']) || folder.eq_ignore_ascii_case(&pattern) {
                self.untagged(&format!("{name} (\\HasNoChildren) \"/\" \"{folder}\""))?;
            }
        }
        DONE
    }

    fn status(&mut self, folders: &Folders, words: &mut Words) -> Answer {
        let name = folder_name(words)?;
        let folder = folders.get(&name).ok_or(NO_FOLDER)?;
        let unseen = folder.messages.iter().filter(|message| !message.has("\\Seen")).count();
        let value = |item: &String| match item.to_ascii_uppercase().as_str() {
            "MESSAGES" => format!("{item} {}", folder.messages.len()),
            "UIDNEXT" => format!("{item} {}", folder.next_uid),
            "UIDVALIDITY" => format!("{item} {}", folder.validity),
            "UNSEEN" => format!("{item} {unseen}"),
            _ => format!("{item} 0"),
        };
        let values: Vec<_> = words.list()?.iter().map(value).collect();
        self.untagged(&format!("STATUS \"{name}\" ({})", values.join(" ")))
    }

    fn select(&mut self, folders: &Folders, words: &mut Words, read_only: bool) -> Answer {
        self.selected = None;
        let name = folder_name(words)?;
        let folder = folders.get(&name).ok_or(NO_FOLDER)?;
        let (validity, next) = (folder.validity, folder.next_uid);
        let (flags, code) = if read_only { ("", "READ-ONLY") } else { (FLAGS, "READ-WRITE") };
        self.untagged(&format!("{} EXISTS\r\n* 0 RECENT", folder.messages.len()))?;
        self.untagged(&format!("FLAGS ({FLAGS})"))?;
        self.untagged(&format!("OK [PERMANENTFLAGS ({flags})] Permanent flags"))?;
        self.untagged(&format!("OK [UIDVALIDITY {validity}] UIDVALIDITY value"))?;
        self.untagged(&format!("OK [UIDNEXT {next}] The next unique identifier value"))?;
        (self.selected, self.read_only, self.uids) = (Some(name), read_only, folder.uids());
        Ok(code.to_owned())
    }

    fn on_messages(
        &mut self,
        folders: &mut Folders,
        name: &str,
        by_uid: bool,
        words: &mut Words,
    ) -> Answer {
        let selected = self.selected.clone().ok_or(Failure::Bad)?;
        let folder = folders.get_mut(&selected).ok_or(NO_FOLDER)?;
        let writable = if self.read_only { Err(READ_ONLY) } else { Ok(()) };
        match name {
            "FETCH" => self.fetch(folder, by_uid, words),
            "STORE" => writable.and_then(|()| self.store(folder, by_uid, words)),
            "SEARCH" => self.search(folder, by_uid, words),
            "COPY" => self.copy(folders, &selected, by_uid, words).map(|(code, _)| code),
            "MOVE" => {
                writable?;
                let (code, uids) = self.copy(folders, &selected, by_uid, words)?;
                folders.entry(selected).and_modify(|folder| folder.remove(&uids));
                // RFC 6851: the code comes before the EXPUNGE responses, in an untagged OK
                if code.is_empty() { DONE } else { self.untagged(&format!("OK [{code}]")) }
            }
            "EXPUNGE" => {
                let set = if by_uid { words.set()? } else { Set::all() };
                writable.map(|()| self.expunge(folder, &set))
            }
            "CLOSE" | "UNSELECT" => {
                if name == "CLOSE" && writable.is_ok() {
                    self.expunge(folder, &Set::all());
                }
                self.selected = None;
                DONE
            }
            _ => Err(Failure::Bad),
        }
    }

    fn fetch(&mut self, folder: &mut Folder, by_uid: bool, words: &mut Words) -> Answer {
        let set = words.set()?;
        let mut items = Item::parse(words)?;
        if by_uid && !items.contains(&Item::Uid) {
            items.insert(0, Item::Uid);
        }
        let marks = !self.read_only && items.iter().any(Item::marks_seen);
        for (number, message) in self.chosen(folder, by_uid, &set) {
            let news = marks && message.flags.insert("\\Seen".to_owned());
            let mut shown: Vec<_> = items.iter().map(|item| item.show(message)).collect();
            if news && !items.contains(&Item::Flags) {
                shown.push(Item::Flags.show(message));
            }
            self.out.extend(format!("* {number} FETCH (").into_bytes());
            self.out.extend(shown.join(&b' '));
            self.out.extend(b")\r\n");
        }
        DONE
    }

    fn store(&mut self, folder: &mut Folder, by_uid: bool, words: &mut Words) -> Answer {
        let (set, action) = (words.set()?, words.keyword()?);
        let flags: BTreeSet<String> = words.list()?.into_iter().collect();
        for (number, message) in self.chosen(folder, by_uid, &set) {
            match action.trim_end_matches(".SILENT") {
                "FLAGS" => message.flags = flags.clone(),
                "+FLAGS" => message.flags.extend(flags.iter().cloned()),
                "-FLAGS" => message.flags.retain(|held| !flags.contains(held)),
                _ => return Err(Failure::Bad),
            }
            if !action.ends_with(".SILENT") {
                let shown = Item::Flags.show(message);
                let (uid, flags) = (message.uid, String::from_utf8_lossy(&shown));
                self.untagged(&format!("{number} FETCH (UID {uid} {flags})"))?;
            }
        }
        DONE
    }

    /// RFC 3501 section 6.4.4: flags, UIDs, numbers and header fields, which are what mail programs ask
    /// for; any other key is the client's error. A list is a conjunction, as the keys around it are.
    fn search(&mut self, folder: &mut Folder, by_uid: bool, words: &mut Words) -> Answer {
        let mut found = self.chosen(folder, false, &Set::all());
        let last = found.last().map_or((0, 0), |(number, message)| (*number, message.uid));
        while !words.is_empty() {
            if words.take("(") || words.take(")") {
                continue;
            }
            let (mut key, mut wanted) = (words.keyword()?, true);
            if key == "NOT" {
                (key, wanted) = (words.keyword()?, false);
            }
            if let Some(flag) = key.strip_prefix("UN") {
                (key, wanted) = (flag.to_owned(), !wanted);
            }
            match key.as_str() {
                "ALL" => found.retain(|_| wanted),
                "SEEN" | "ANSWERED" | "FLAGGED" | "DELETED" | "DRAFT" => {
                    found.retain(|(_, message)| message.has(&format!("\\{key}")) == wanted);
                }
                "SUBJECT" | "FROM" | "TO" | "HEADER" => {
                    let name = if key == "HEADER" { words.text()? } else { key };
                    let text = words.text()?;
                    found.retain(|(_, message)| field_holds(message, &name, &text) == wanted);
                }
                "UID" => {
                    let set = words.set()?;
                    found.retain(|(_, message)| set.holds(message.uid, last.1) == wanted);
                }
                set => {
                    let set = Set::parse(set).ok_or(Failure::Bad)?;
                    found.retain(|(number, _)| set.holds(*number, last.0) == wanted);
                }
            }
        }
        let number = |(number, message): &(u32, &mut Message)| match by_uid {
            true => format!(" {}", message.uid),
            false => format!(" {number}"),
        };
        let numbers: String = found.iter().map(number).collect();
        self.untagged(&format!("SEARCH{numbers}"))
    }

    /// The response code of RFC 4315 section 3, and the UIDs that were copied.
    fn copy(
        &self,
        folders: &mut Folders,
        selected: &str,
        by_uid: bool,
        words: &mut Words,
    ) -> Result<(String, BTreeSet<u32>), Failure> {
        let set = words.set()?;
        let chosen = self.chosen(folders.get_mut(selected).ok_or(NO_FOLDER)?, by_uid, &set);
        let messages: Vec<Message> =
            chosen.into_iter().map(|(_, message)| message.clone()).collect();
        let old: BTreeSet<u32> = messages.iter().map(|message| message.uid).collect();
        let folder = folders.get_mut(&folder_name(words)?).ok_or(NO_FOLDER)?;
        let new: Vec<_> =
            messages.into_iter().map(|m| folder.add(m.data, m.flags, m.received)).collect();
        let joined = |uids: Vec<String>| uids.join(",");
        let (from, to) = (old.iter().map(u32::to_string), new.iter().map(u32::to_string));
        let code = format!(
            "COPYUID {} {} {}",
            folder.validity,
            joined(from.collect()),
            joined(to.collect())
        );
        Ok((if old.is_empty() { String::new() } else { code }, old))
    }

    fn expunge(&self, folder: &mut Folder, set: &Set) -> String {
        let mut gone = self.chosen(folder, true, set);
        gone.retain(|(_, message)| message.has("\\Deleted"));
        let gone = gone.into_iter().map(|(_, message)| message.uid).collect();
        folder.remove(&gone);
        String::new()
    }

    /// Those messages of a set that the client knows of and that still exist, by sequence number. One that
    /// another session removed is skipped, never mistaken for its neighbour.
    fn chosen<'f>(
        &self,
        folder: &'f mut Folder,
        by_uid: bool,
        set: &Set,
    ) -> Vec<(u32, &'f mut Message)> {
        let largest =
            if by_uid { self.uids.last().copied() } else { u32::try_from(self.uids.len()).ok() };
        let known = |message: &'f mut Message| {
            let number = u32::try_from(self.uids.binary_search(&message.uid).ok()? + 1).ok()?;
            let meant = if by_uid { message.uid } else { number };
            set.holds(meant, largest?).then_some((number, message))
        };
        folder.messages.iter_mut().filter_map(known).collect()
    }

    fn untagged(&mut self, line: &str) -> Answer {
        self.out.extend(format!("* {line}\r\n").into_bytes());
        DONE
    }
}

fn create(folders: &mut Folders, words: &mut Words) -> Answer {
    let name = folder_name(words)?;
    if folders.contains_key(&name) {
        return Err(Failure::No("[ALREADYEXISTS] Mailbox already exists."));
    }
    folders.insert(name, Folder::new());
    DONE
}

fn delete(folders: &mut Folders, words: &mut Words) -> Answer {
    let name = Some(folder_name(words)?).filter(|name| name != "INBOX");
    name.and_then(|name| folders.remove(&name)).map(|_| String::new()).ok_or(NO_FOLDER)
}

fn append(folders: &mut Folders, words: &mut Words) -> Answer {
    let folder = folders.get_mut(&folder_name(words)?).ok_or(NO_FOLDER)?;
    let flags = if words.next_is("(") { words.list()? } else { Vec::new() };
    let (mut received, mut data) = (calendar::now(Style::Imap), words.octets()?);
    if !words.is_empty() {
        received = String::from_utf8_lossy(&data).into_owned();
        data = words.octets()?;
    }
    let uid = folder.add(data.into(), flags.into_iter().collect(), received);
    Ok(format!("APPENDUID {} {uid}", folder.validity))
}

/// Folder names are case-sensitive, but for INBOX (RFC 3501 section 5.1).
fn folder_name(words: &mut Words) -> Result<String, Failure> {
    let name = words.text()?;
    if name.is_empty() || name.contains(['"', '\\', '*', '%']) || name.contains(char::is_control) {
        return Err(Failure::No("The mailbox name is invalid."));
    }
    Ok(if name.eq_ignore_ascii_case("INBOX") { "INBOX".to_owned() } else { name })
}
