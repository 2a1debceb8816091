//! `gatepost init`: from nothing to a configuration, an app password and a sign-in.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `answers` | the flags, and the answers when they are complete |
//! | `questions` | what is asked, in which order |
//! | `provider`, `proof` | whose mailbox it is; what the app authenticates with |
//! | `ask` | one question: flag, default or person |
//! | `checks`, `ports`, `portal` | what helps to answer well |
//! | `document`, `write` | the configuration as text, and its way onto the disk |
//! | `settings` | what to type into the mail client |
//!
//! Invariant: until the last answer nothing is written, and from then on nothing is lost: whatever fails later,
//! the configuration stays, and the command that goes on is named.

mod answers;
mod ask;
mod checks;
mod document;
mod portal;
mod ports;
mod proof;
mod provider;
mod questions;
mod settings;
mod write;

use std::io::{IsTerminal, stderr, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::login::{Place, sign_in};
use super::password::{New, make};
use super::{FILE, account, ui};
use crate::config::Config;
use crate::oauth::Principal;
use crate::secret::Secret;
use crate::store::Store;
use answers::Answers;
pub(super) use answers::Args;
use ask::Asker;
use settings::Settings;

pub(super) async fn init(file: Option<PathBuf>, args: Args) -> Result<()> {
    let file = match file {
        Some(file) => std::path::absolute(&file).with_context(|| file.display().to_string())?,
        None => default_file()?,
    };
    // A link that leads nowhere is a file here.
    if file.symlink_metadata().is_ok() {
        return Err(write::exists(&file));
    }
    let then = Then { place: args.place, login: !args.no_login, password: !args.no_password };
    // Whoever answers takes longer than a task of the runtime should.
    let answers = tokio::task::block_in_place(|| ask(&file, args))?;
    let config = write::write(&file, &answers)?;
    ui::say(&format!("{} is written, and good", file.display()));
    then.go_on(&config, &answers).await
}

/// The platform's configuration folder, from which every command reads.
fn default_file() -> Result<PathBuf> {
    let folder = dirs::config_dir().context(
        "this system has no folder for configurations\nhint: gatepost init --config FILE",
    )?;
    Ok(folder.join("gatepost").join(FILE))
}

fn ask(file: &Path, args: Args) -> Result<Answers> {
    let mut asker = Asker::new(args.yes);
    if asker.person() {
        ui::say(&format!(
            "This makes {}.\nEsc or Ctrl-C ends it, and leaves nothing behind.\n",
            file.display()
        ));
    }
    let answers = questions::ask(args, &mut asker)?;
    asker.finish()?;
    Ok(answers)
}

/// What is done once the configuration is there.
struct Then {
    password: bool,
    login: bool,
    place: Place,
}

/// How far it has come.
#[derive(Default)]
struct Done {
    password: Option<Secret<String>>,
    signed_in: bool,
}

impl Then {
    async fn go_on(&self, config: &Config, answers: &Answers) -> Result<()> {
        let for_script = !(stdout().is_terminal() && stderr().is_terminal());
        let mut done = Done::default();
        let outcome = self.carry_out(config, answers, for_script, &mut done).await;
        let settings = Settings { file: &config.file, answers };
        let password = done.password.as_ref();
        settings.show(password.map(|password| (!for_script).then_some(password)));
        settings.show_commands(done.password.is_some(), done.signed_in);
        outcome
    }

    async fn carry_out(
        &self,
        config: &Config,
        answers: &Answers,
        for_script: bool,
        done: &mut Done,
    ) -> Result<()> {
        let store = Store::open(&config.state_dir, config.key_file.as_deref()).await?;
        if self.password {
            let password = make_password(&store, answers).await?;
            if for_script {
                ui::out(password.expose())?;
            }
            // From here on it is shown, whatever becomes of the sign-in.
            done.password = Some(password);
        }
        let signed_in = match self.login {
            true => self.sign_in(config, &store, &answers.mailbox).await,
            false => Ok(()),
        };
        store.close().await;
        done.signed_in = self.login && signed_in.is_ok();
        signed_in
    }

    async fn sign_in(&self, config: &Config, store: &Store, mailbox: &str) -> Result<()> {
        let principal = Principal::among(&config.accounts, &*account(config, mailbox)?);
        tokio::select! {
            done = sign_in(config, store, vec![principal], self.place, false) => done,
            _ = tokio::signal::ctrl_c() => bail!("the sign-in was broken off"),
        }
    }
}

async fn make_password(store: &Store, answers: &Answers) -> Result<Secret<String>> {
    let what = New {
        mailbox: &answers.mailbox.to_lowercase(),
        name: answers.password_name.clone(),
        protocols: Vec::new(),
        networks: Vec::new(),
    };
    Ok(make(store, what).await?.1)
}
