//! `[guard]`.

use std::time::Duration;

use toml::Spanned;

use super::super::{GuardSettings, raw};
use super::{Checker, ConfigError};

/// The longest delay of an answer: mail clients wait at least half a minute for one, and the session before a
/// login has a minute in all.
const LONGEST_DELAY: Duration = Duration::from_secs(15);

/// The longest first lock: a later one lasts fifteen times as long.
const LONGEST_LOCK: Duration = Duration::from_secs(24 * 60 * 60);

impl Checker<'_> {
    pub(super) fn guard(&self, written: raw::Guard) -> Result<GuardSettings, ConfigError> {
        let default = GuardSettings::default();
        let lock = self.duration("guard.lock", written.lock.as_ref())?.unwrap_or(default.lock);
        if let (true, Some(written)) = (lock > LONGEST_LOCK, &written.lock) {
            let problem = format!("{:?} is longer than a day", written.get_ref());
            return Err(self.error(
                &written.span(),
                "guard.lock",
                problem,
                "write \"1m\" or \"1h\"",
            ));
        }
        Ok(GuardSettings {
            attempts: written.attempts.map_or(default.attempts, |n| (n > 0).then_some(n)),
            lock,
            delay: self.delay(written.delay.as_ref())?.unwrap_or(default.delay),
            waiting_per_source: self
                .waiting("guard.waiting_per_source", written.waiting_per_source.as_ref())?
                .unwrap_or(default.waiting_per_source),
            waiting: self
                .waiting("guard.waiting", written.waiting.as_ref())?
                .unwrap_or(default.waiting),
        })
    }

    /// Nobody could log in with none.
    fn waiting(
        &self,
        key: &str,
        written: Option<&Spanned<usize>>,
    ) -> Result<Option<usize>, ConfigError> {
        match written {
            Some(zero) if *zero.get_ref() == 0 => {
                let remedy = "write a number from 1 on, or leave it out";
                Err(self.error(&zero.span(), key, "0 would let nobody in", remedy))
            }
            _ => Ok(written.map(|count| *count.get_ref())),
        }
    }

    fn delay(&self, written: Option<&Spanned<String>>) -> Result<Option<Duration>, ConfigError> {
        let Some(written) = written else { return Ok(None) };
        let delay = humantime::parse_duration(written.get_ref()).ok();
        delay.filter(|delay| *delay <= LONGEST_DELAY).map(Some).ok_or_else(|| {
            let problem = format!("{:?} is no time from 0s to 15s", written.get_ref());
            self.error(&written.span(), "guard.delay", problem, "write \"4s\", or \"0s\" for none")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn parse(text: &str) -> Result<GuardSettings, String> {
        let config = Config::parse(Path::new("gatepost.toml"), text);
        config.map(|config| config.guard).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_and_defaults() {
        assert_eq!(parse("").unwrap(), GuardSettings::default());
        let written = parse("[guard]\nattempts = 5\nlock = \"2m\"\ndelay = \"0s\"\n").unwrap();
        let (lock, delay) = (Duration::from_secs(120), Duration::ZERO);
        let default = GuardSettings::default();
        assert_eq!(written, GuardSettings { attempts: Some(5), lock, delay, ..default.clone() });
        let waiting = parse("[guard]\nwaiting = 7\n").unwrap();
        assert_eq!(waiting, GuardSettings { waiting: 7, ..default });
        assert_eq!(parse("[guard]\nattempts = 0\n").unwrap().attempts, None);
    }

    #[test]
    fn errors_name_the_key() {
        for (line, key) in [
            ("lock = \"0s\"", "guard.lock"),
            ("lock = \"2d\"", "guard.lock"),
            ("delay = \"1h\"", "guard.delay"),
            ("attempts = -1", "guard.attempts"),
            ("waiting = 0", "guard.waiting"),
            ("waiting_per_source = 0", "guard.waiting_per_source"),
            ("atempts = 1", "atempts"),
        ] {
            let error = parse(&format!("[guard]\n{line}\n")).unwrap_err();
            assert!(error.contains(key) && error.contains("line 2"), "{line}: {error}");
            assert!(error.contains("hint:"), "{error}");
        }
    }
}
