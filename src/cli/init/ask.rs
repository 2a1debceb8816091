//! One question at a time: answered by a flag, by its default, or by a person at the terminal.
//!
//! Invariant: what a flag has answered is never asked; without a person nothing is guessed that has no default,
//! and all that is missing is named at once.

use std::fmt::{self, Display};
use std::io::{IsTerminal, stderr, stdin};

use anyhow::{Context, Result, anyhow};
use inquire::error::InquireError;
use inquire::validator::{MinLengthValidator, Validation};
use inquire::{MultiSelect, Password, PasswordDisplayMode, Select, Text};
use zeroize::Zeroizing;

use crate::cli::{UsageError, ui};
use crate::secret::Secret;

/// Puts the questions.
pub(super) struct Asker {
    /// There is somebody to ask.
    person: bool,
    /// Whoever is there wants the defaults.
    defaults: bool,
    missing: Vec<String>,
    notes: Vec<String>,
}

/// What is asked, and by which flag it is answered otherwise.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) flag: &'a str,
    pub(super) words: &'a str,
    /// Where the answer is found.
    pub(super) help: &'a str,
}

impl Asker {
    /// `defaults`: nothing is asked that has one.
    pub(super) fn new(defaults: bool) -> Self {
        Self {
            person: stdin().is_terminal() && stderr().is_terminal(),
            defaults,
            missing: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Whether a person will be asked.
    pub(super) fn person(&self) -> bool {
        self.person
    }

    /// Whether a person will be asked for what has a default too.
    pub(super) fn asks(&self) -> bool {
        self.person && !self.defaults
    }

    /// Something without which nothing can be written.
    pub(super) fn missing(&mut self, flag: impl Into<String>) {
        self.missing.push(flag.into());
    }

    /// Something to say when all is answered.
    pub(super) fn note(&mut self, words: String) {
        self.notes.push(words);
    }

    /// Names all that is missing.
    pub(super) fn finish(self) -> Result<()> {
        if self.missing.is_empty() {
            self.notes.iter().for_each(|note| ui::say(note));
            return Ok(());
        }
        let problem = format!("not everything is known: missing are {}", self.missing.join(", "));
        let hint = "add them, or call gatepost init in a terminal, where it asks for them";
        Err(UsageError::new(problem, hint).into())
    }

    /// A line of text. `check` gives it as it is to be used, or says what is wrong.
    pub(super) fn text<C>(
        &mut self,
        question: Question<'_>,
        given: Option<&str>,
        default: Option<&str>,
        check: C,
    ) -> Result<String>
    where
        C: Fn(&str) -> Result<String, String> + Clone,
    {
        if let Some(given) = given {
            return check(given).map_err(|problem| question.refuses(given, &problem));
        }
        match default {
            Some(default) if !self.asks() => return Ok(default.to_owned()),
            None if !self.person => {
                self.missing(question.flag);
                return Ok(String::new());
            }
            _ => {}
        }
        let mut prompt = Text::new(question.words).with_help_message(question.help);
        prompt.default = default;
        let checked = check.clone();
        prompt.validators.push(Box::new(move |typed: &str| Ok(validation(checked(typed)))));
        let typed = answered(prompt.prompt())?;
        check(&typed).map_err(|problem| question.refuses(&typed, &problem))
    }

    /// A line of text that may be left out.
    pub(super) fn optional<C>(
        &mut self,
        question: Question<'_>,
        given: Option<&str>,
        check: C,
    ) -> Result<Option<String>>
    where
        C: Fn(&str) -> Result<String, String> + Clone,
    {
        if given.is_none() && !self.asks() {
            return Ok(None);
        }
        let check = |typed: &str| if typed.is_empty() { Ok(String::new()) } else { check(typed) };
        let typed = self.text(question, given, None, check)?;
        Ok(Some(typed).filter(|typed| !typed.is_empty()))
    }

    /// One of several; the first one is the default.
    pub(super) fn choice<T: Display>(
        &mut self,
        words: &str,
        help: &str,
        options: Vec<T>,
    ) -> Result<T> {
        if !self.asks() || options.len() == 1 {
            return options.into_iter().next().context("there is nothing to choose from");
        }
        answered(Select::new(words, options).with_help_message(help).without_filtering().prompt())
    }

    /// At least one of several; those at `defaults` are chosen to begin with.
    pub(super) fn choices<T: Display + Clone>(
        &mut self,
        words: &str,
        help: &str,
        options: &[T],
        defaults: &[usize],
    ) -> Result<Vec<T>> {
        if !self.asks() || options.len() == 1 {
            return Ok(defaults.iter().filter_map(|&at| options.get(at).cloned()).collect());
        }
        let one = MinLengthValidator::new(1).with_message("choose at least one");
        let prompt = MultiSelect::new(words, options.to_vec()).with_help_message(help);
        answered(prompt.with_default(defaults).with_validator(one).without_filtering().prompt())
    }

    /// A secret, which is not shown. Only for a person; `check` as for a text.
    pub(super) fn secret<C>(&mut self, words: &str, help: &str, check: C) -> Result<Secret<String>>
    where
        C: Fn(&str) -> Result<String, String> + Clone + 'static,
    {
        let prompt = Password::new(words)
            .with_help_message(help)
            .with_display_mode(PasswordDisplayMode::Masked)
            .without_confirmation()
            .with_validator({
                let check = check.clone();
                move |typed: &str| Ok(validation(check(typed)))
            });
        let typed = Zeroizing::new(answered(prompt.prompt())?);
        check(&typed).map(Secret::new).map_err(|problem| anyhow!("{words}: {problem}"))
    }
}

/// An option as it is shown, and what it means.
#[derive(Clone)]
pub(super) struct Shown<T>(pub(super) String, pub(super) T);

impl<T> fmt::Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Question<'_> {
    fn refuses(&self, answer: &str, problem: &str) -> anyhow::Error {
        UsageError::new(format!("{} {answer:?}: {problem}", self.flag), self.help).into()
    }
}

fn validation(checked: Result<String, String>) -> Validation {
    checked.map_or_else(|problem| Validation::Invalid(problem.into()), |_| Validation::Valid)
}

fn answered<T>(answer: Result<T, InquireError>) -> Result<T> {
    answer.map_err(|error| match error {
        InquireError::OperationCanceled | InquireError::OperationInterrupted => {
            anyhow!("broken off; nothing was written")
        }
        error => anyhow!("{error}; nothing was written"),
    })
}
