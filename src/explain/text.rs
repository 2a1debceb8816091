//! A text in which codes are looked for: in lower case, on one line, single spaces.
//!
//! Invariant: what is found stands by itself. A letter, a digit, an underscore, or a dot between digits
//! beside it makes it a part of something else.

/// Fewest and most digits of one of Entra's codes, to tell it from a reply code such as 535 when it comes
/// without its name. Those that are known have five to seven.
const BARE_CODE: std::ops::RangeInclusive<usize> = 5..=7;

/// See the module.
pub(super) struct Text {
    text: String,
    aadsts: Vec<String>,
}

impl Text {
    pub(super) fn new(pasted: &str) -> Self {
        let mut text = pasted.to_ascii_lowercase();
        // Line ends as JSON writes them, which would stick to the word behind them.
        for escape in ["\\r", "\\n", "\\t"] {
            text = text.replace(escape, " ");
        }
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let aadsts = aadsts_numbers(&text);
        Self { text, aadsts }
    }

    /// Numbers of Entra's codes, each once, in the order of the text.
    pub(super) fn aadsts_numbers(&self) -> &[String] {
        &self.aadsts
    }

    pub(super) fn into_aadsts_numbers(self) -> Vec<String> {
        self.aadsts
    }

    /// Whether it is this and nothing else.
    pub(super) fn is(&self, code: &str) -> bool {
        self.text.eq_ignore_ascii_case(code)
    }

    /// Whether it has these words, which are in lower case.
    pub(super) fn has(&self, words: &str) -> bool {
        self.place_of(words).is_some()
    }

    /// Where these words, which are in lower case, stand first.
    pub(super) fn place_of(&self, words: &str) -> Option<usize> {
        let mut places = self.text.match_indices(words).map(|(place, _)| place);
        places.find(|&place| {
            let before = self.text.get(..place).unwrap_or_default();
            let behind = self.text.get(place + words.len()..).unwrap_or_default();
            begins(before) && ends(behind)
        })
    }

    /// Whether it has the name of a refusal. One that is an English word counts as the whole text or as
    /// the log's `refused` only.
    pub(super) fn has_refusal(&self, name: &str) -> bool {
        if name.contains('_') {
            return self.has(name);
        }
        let logged = |behind: &str| {
            let value = behind.trim_start_matches(['"', '\\', ':', '=', ' ']);
            value.strip_prefix(name).is_some_and(ends)
        };
        self.is(name) || self.text.split("refused").skip(1).any(logged)
    }
}

/// Whether a word can begin behind this.
fn begins(before: &str) -> bool {
    let goes_on = |rest: &str| rest.ends_with(|c: char| c.is_ascii_digit());
    !before.ends_with(is_part_of_word) && !before.strip_suffix('.').is_some_and(goes_on)
}

/// Whether a word can end before this.
fn ends(behind: &str) -> bool {
    let goes_on = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    !behind.starts_with(is_part_of_word) && !behind.strip_prefix('.').is_some_and(goes_on)
}

fn is_part_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Behind `AADSTS`, in a list behind `error_codes`, or all that there is.
fn aadsts_numbers(text: &str) -> Vec<String> {
    let named = text.split("aadsts").skip(1).map(|behind| {
        let behind = behind.trim_start_matches([' ', ':', '-', '_']);
        first_part(behind, |c| c.is_ascii_digit())
    });
    let listed = text.split("error_codes").skip(1).flat_map(|behind| {
        let list = behind.trim_start_matches(['"', '\\', ':', '=', ' ', '[']);
        numbers(first_part(list, |c| c.is_ascii_digit() || c == ',' || c == ' '))
    });
    let is_code =
        |part: &str| BARE_CODE.contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    let bare = numbers(text).all(is_code).then(|| numbers(text));
    let mut found = Vec::new();
    for number in named.chain(listed).chain(bare.into_iter().flatten()) {
        if !number.is_empty() && !found.iter().any(|known| known == number) {
            found.push(number.to_owned());
        }
    }
    found
}

fn numbers(list: &str) -> impl Iterator<Item = &str> {
    list.split([' ', ',']).filter(|part| !part.is_empty())
}

/// The part up to the first character that is not of it.
fn first_part(text: &str, is_of_it: impl Fn(char) -> bool) -> &str {
    text.split(|c| !is_of_it(c)).next().unwrap_or_default()
}
