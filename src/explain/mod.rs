//! What error codes mean and what to do about them: Entra's, OAuth's, Exchange's and gatepost's own.
//!
//! The knowledge is data, one file for each source; the code finds what a text has of it. [`explain`] takes
//! whatever people paste: a code, a log line, a JSON body, a mail server's reply.
//!
//! Invariant: neither configuration nor network is needed, and a number within a longer one is never taken
//! for a code (`AADSTS500111` is not `AADSTS50011`, `5.7.1` is not `5.7.139`).

mod text;

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use text::Text;

/// What is known of a code or a reply.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// `AADSTS50173`, `5.7.139 Tenant`, `invalid_grant`, `sign_in_needed`: stable, and unique among all.
    pub code: String,
    /// A headline.
    pub title: String,
    /// What has happened, in a few sentences.
    pub meaning: String,
    /// What to do. `{mailbox}` stands for the mailbox, `{credential}` for where a new secret or key of the app's is put
    /// and what follows, and what is to be typed stands between backticks.
    remedy: String,
    /// Who does it.
    pub who: Who,
    /// Whether the same may succeed later.
    pub transient: bool,
    /// Exchange's and gatepost's replies: the enhanced status code (RFC 3463).
    status: Option<String>,
    /// Exchange's and gatepost's replies: words that tell it, in lower case once loaded.
    #[serde(default)]
    phrases: Vec<String>,
    #[serde(skip)]
    source: Source,
}

/// Who can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    /// The mailbox's user, at the mail client or in the browser.
    User,
    /// Who runs gatepost or administers the tenant.
    Admin,
    /// Nobody needs to: it passes by itself.
    Nobody,
}

/// The place of an app's own secret or key where the app is not known.
pub const A_CREDENTIAL: &str = "the file that [app.NAME] names; gatepost notices by itself (if it is a variable of the \
                                environment or a credential of systemd's, restart gatepost)";

/// Where an entry is from: the more telling sources first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    #[default]
    Entra,
    Exchange,
    OAuth,
    Own,
}

/// All entries that a text mentions, each once, the most telling first: Entra's codes, Exchange's replies,
/// OAuth's error words, gatepost's own refusals.
pub fn explain(text: &str) -> Vec<&'static Entry> {
    let text = Text::new(text);
    let place = |entry: &'static Entry| Some((entry.place_in(&text)?, entry));
    let mut found: Vec<_> = ENTRIES.iter().filter_map(place).collect();
    add_by_status(&text, &mut found);
    found.sort_by_key(|(place, entry)| (entry.source, *place));
    found.into_iter().map(|(_, entry)| entry).collect()
}

/// The most telling one.
pub fn best(text: &str) -> Option<&'static Entry> {
    explain(text).into_iter().next()
}

/// The numbers of Entra's codes that a text mentions and that have no entry here.
pub fn unknown(text: &str) -> Vec<String> {
    let known = |number: &str| ENTRIES.iter().any(|entry| entry.number() == Some(number));
    let numbers = Text::new(text).into_aadsts_numbers();
    numbers.into_iter().filter(|number| !known(number)).collect()
}

/// What happened, and what to do, of one of gatepost's own errors: they carry it behind `hint:`.
pub fn split_hint(error: &str) -> (&str, Option<&str>) {
    match error.split_once("\nhint: ") {
        Some((what, hint)) => (what, Some(hint)),
        None => (error, None),
    }
}

impl Entry {
    /// The remedy for this mailbox, as plain words.
    pub fn remedy_for(&self, mailbox: &str) -> String {
        self.marked_remedy(mailbox, A_CREDENTIAL).replace('`', "")
    }

    /// The same with what is to be typed between backticks, and with the place of the app's own credential.
    pub fn marked_remedy(&self, mailbox: &str, credential: &str) -> String {
        self.remedy.replace("{mailbox}", mailbox).replace("{credential}", credential)
    }

    /// Of `AADSTS50173`.
    fn number(&self) -> Option<&str> {
        self.code.strip_prefix("AADSTS")
    }

    /// Where the text names this entry, to order those of one source. Replies keep the order of their file.
    fn place_in(&self, text: &Text) -> Option<usize> {
        let said = || self.phrases.iter().any(|phrase| text.has(phrase));
        let in_file_order = |found: bool| found.then_some(0);
        match self.source {
            Source::Entra => text.aadsts_numbers().iter().position(|n| Some(&**n) == self.number()),
            Source::Exchange => in_file_order(text.is(&self.code) || said()),
            Source::OAuth => text.place_of(&self.code),
            Source::Own => in_file_order(text.has_refusal(&self.code) || said()),
        }
    }
}

/// A status code names the first entry that has it, unless words have named one already.
fn add_by_status(text: &Text, found: &mut Vec<(usize, &'static Entry)>) {
    let mut told: Vec<_> = found.iter().filter_map(|(_, entry)| entry.status.as_deref()).collect();
    for entry in ENTRIES.iter() {
        let Some(status) = entry.status.as_deref() else { continue };
        if text.has(status) && !told.contains(&status) {
            told.push(status);
            found.push((usize::MAX, entry));
        }
    }
}

static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    FILES.into_iter().flat_map(|(source, file)| load(source, file).unwrap_or_default()).collect()
});

const FILES: [(Source, &str); 4] = [
    (Source::Entra, include_str!("aadsts.toml")),
    (Source::Exchange, include_str!("exchange.toml")),
    (Source::OAuth, include_str!("oauth.toml")),
    (Source::Own, include_str!("own.toml")),
];

/// The files are part of the program, and a test loads each of them: none fails at run time.
fn load(source: Source, file: &str) -> Result<Vec<Entry>, toml::de::Error> {
    #[derive(Deserialize)]
    struct File {
        entry: Vec<Entry>,
    }
    let mut entries = toml::from_str::<File>(file)?.entry;
    for entry in &mut entries {
        entry.source = source;
        entry.phrases.iter_mut().for_each(|phrase| phrase.make_ascii_lowercase());
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn codes(text: &str) -> Vec<&'static str> {
        explain(text).into_iter().map(|entry| entry.code.as_str()).collect()
    }

    #[test]
    fn every_file_loads() {
        let least = [60, 25, 20, 8];
        for ((source, file), least) in FILES.into_iter().zip(least) {
            let loaded = load(source, file).unwrap_or_else(|error| panic!("{source:?}: {error}"));
            assert!(loaded.len() >= least, "{source:?} has {} entries", loaded.len());
        }
    }

    #[test]
    fn every_entry_is_complete_and_unique() {
        let mut seen = BTreeSet::new();
        for entry in ENTRIES.iter() {
            let Entry { code, title, meaning, remedy, .. } = entry;
            assert!(seen.insert(code.to_ascii_lowercase()), "{code} stands twice");
            assert!(!title.is_empty() && !title.ends_with('.'), "{code}: {title}");
            assert!(meaning.len() > 30 && meaning.ends_with('.'), "{code}: {meaning}");
            assert!(remedy.len() > 20 || remedy.starts_with('`'), "{code}: {remedy}");
            assert!(entry.who != Who::Nobody || entry.transient, "{code} does not pass by itself");
            assert_eq!(entry.source == Source::Entra, entry.number().is_some(), "{code}");
            let reply = matches!(entry.source, Source::Exchange | Source::Own);
            assert_eq!(reply, !entry.phrases.is_empty(), "{code}: phrases are for replies");
            for placeholder in remedy.split('{').skip(1) {
                let known =
                    ["mailbox}", "credential}"].iter().any(|it| placeholder.starts_with(it));
                assert!(known, "{code}: {remedy}");
            }
        }
    }

    /// So that it can be kept on one line and copied.
    #[test]
    fn every_command_stands_between_backticks() {
        let command = ["gatepost login", "gatepost password", "gatepost doctor", "Set-", "Add-"];
        for entry in ENTRIES.iter() {
            assert_eq!(entry.remedy.matches('`').count() % 2, 0, "{}", entry.code);
            for words in entry.remedy.split('`').step_by(2) {
                let bare = command.iter().any(|command| words.contains(command));
                assert!(!bare, "{}: {words}", entry.code);
            }
        }
    }

    /// By its code, in any letter case, and by each of its phrases.
    #[test]
    fn every_entry_is_found() {
        for entry in ENTRIES.iter() {
            let names = entry.phrases.iter().chain([&entry.code]).cloned();
            for name in names.chain([entry.code.to_ascii_uppercase()]) {
                assert_eq!(best(&name).map(|found| &found.code), Some(&entry.code), "{name}");
            }
        }
    }

    #[test]
    fn a_bare_number_is_a_code_only_alone() {
        assert_eq!(codes("50173"), ["AADSTS50173"]);
        assert_eq!(codes(" 50173\n"), ["AADSTS50173"]);
        assert_eq!(codes("50173, 700082"), ["AADSTS50173", "AADSTS700082"]);
        assert_eq!(codes("AADSTS 50173: x"), ["AADSTS50173"]);
        assert_eq!(codes("it took 50173 ms"), [""; 0]);
        assert_eq!(codes("535"), [""; 0]);
    }

    #[test]
    fn a_number_within_a_number_is_no_code() {
        assert_eq!(codes("AADSTS500111: something else"), [""; 0]);
        assert_eq!(unknown("AADSTS500111: something else"), ["500111"]);
        assert_eq!(codes("AADSTS5001"), [""; 0]);
        assert_eq!(codes("AADSTS50011"), ["AADSTS50011"]);
        assert_eq!(codes("550 5.7.13 no"), [""; 0]);
        assert_eq!(codes("peer=10.5.7.57 port=15.7.57"), [""; 0]);
        assert_eq!(codes("5.7.57.1"), [""; 0]);
        assert_eq!(codes("530-5.7.57."), ["5.7.57"]);
    }

    #[test]
    fn a_word_within_a_word_is_no_code() {
        assert_eq!(codes("not_invalid_grant invalid_grants"), [""; 0]);
        assert_eq!(codes("{\"error\":\"invalid_grant\"}"), ["invalid_grant"]);
        assert_eq!(codes("an error.invalid_grant."), ["invalid_grant"]);
    }

    #[test]
    fn a_json_body_tells_its_code_once_and_first() {
        let body = r#"{"error":"invalid_grant","error_description":"AADSTS50173: The grant was revoked.\r\nTrace ID: 50076","error_codes":[50173],"suberror":"bad_token"}"#;
        assert_eq!(codes(body), ["AADSTS50173", "invalid_grant"]);
        assert_eq!(codes("\"error_codes\": [\n  700082,\n 50076\n ]").len(), 2);
        assert_eq!(codes(r#"reason="{\"error_codes\":[700082]}""#), ["AADSTS700082"]);
    }

    #[test]
    fn a_log_line_tells_the_cause_before_the_refusal() {
        let line = r#"INFO connection closed outcome=refused refused="sign_in_needed" reason="jane@contoso.example must be signed in" cause="invalid_grant: AADSTS700082: x""#;
        assert_eq!(codes(line), ["AADSTS700082", "invalid_grant", "sign_in_needed"]);
        let line = r#"refused="not_permitted" reason="the password is right, but the mail server refuses this mailbox: 535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox.""#;
        assert_eq!(codes(line), ["5.7.139 Mailbox", "not_permitted"]);
    }

    #[test]
    fn the_words_behind_a_status_tell_more() {
        assert_eq!(codes("5.7.139"), ["5.7.139"]);
        assert_eq!(codes("535 5.7.139 Authentication unsuccessful"), ["5.7.139"]);
        let reply = |who| format!("SmtpClientAuthentication is DISABLED\r\n for the {who}. Visit");
        assert_eq!(codes(&format!("535 5.7.139 {}", reply("Tenant"))), ["5.7.139 Tenant"]);
        assert_eq!(codes(&reply("Mailbox")), ["5.7.139 Mailbox"]);
        let bye = "* BYE Session invalidated - AccessTokenExpired";
        assert_eq!(best(bye).unwrap().code, "AccessTokenExpired");
    }

    #[test]
    fn a_plain_word_is_a_refusal_only_where_one_stands() {
        assert_eq!(codes("NO Request is throttled."), ["Request is throttled"]);
        assert_eq!(codes("refused=\"throttled\""), ["throttled"]);
        assert_eq!(codes("{\"refused\":\"throttled\"}"), ["throttled"]);
        assert_eq!(codes("Throttled"), ["throttled"]);
    }

    #[test]
    fn the_remedy_names_the_mailbox() {
        let remedy = best("AADSTS50173").unwrap().remedy_for("jane@contoso.example");
        assert_eq!(remedy, "Sign in again: gatepost login jane@contoso.example");
    }
}
