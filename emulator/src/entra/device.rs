//! The device authorization grant (RFC 8628): `POST /{tenant}/oauth2/v2.0/devicecode`, the page at
//! `/{tenant}/deviceauth` where a person enters the code, and the polls of the token endpoint.
//!
//! Invariant: a code leaves `Pending` once, and gives tokens once.

use axum::{
    http::{Method, StatusCode},
    response::Response,
};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

use super::{
    Request, SignIns,
    failure::{Failure, fail},
    field, json_answer,
    pages::{self, SignIn},
    scopes::Scopes,
    user::{self, SignedIn},
};
use crate::{
    World, locked,
    tokens::{folded, random, unique},
};

/// What a user code is made of: nothing that looks like something else (RFC 8628 section 6.1). There
/// are 32, so that an octet picks each with the same chance.
const ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// As long as Entra's.
const USER_CODE_LENGTH: usize = 9;

/// RFC 8628 section 3.5: how much `slow_down` adds to the interval.
const SLOWER: Duration = Duration::from_secs(5);

/// What the network may take from the time between two polls.
const JITTER: Duration = Duration::from_millis(200);

/// A device that waits for a person.
pub(super) struct Device {
    device_code: String,
    user_code: String,
    scope: String,
    issued: Instant,
    interval: Duration,
    polled: Option<Instant>,
    state: State,
}

enum State {
    Pending,
    Approved(String),
    Declined,
    Redeemed,
}

/// Answers a device that wants to be signed in (RFC 8628 section 3.2).
pub(super) fn start(world: &World, request: &Request, tenant: &str) -> Response {
    let scope = request.check_client(world, tenant, &request.form).and_then(|_| {
        let scope = field(&request.form, "scope")?;
        Scopes::asked(world, scope).map(|_| scope.to_owned())
    });
    let scope = match scope {
        Ok(scope) => scope,
        Err(failure) => return failure.answer(world, request),
    };
    let registration = &world.options.registration;
    let device = Device {
        device_code: format!("EAQABAQEA{}", unique(160)),
        user_code: user_code(),
        scope,
        issued: Instant::now(),
        interval: registration.device_interval,
        polled: None,
        state: State::Pending,
    };
    let uri = format!("{}/{tenant}/deviceauth", request.base());
    let code = &device.user_code;
    let body = json!({
        "user_code": code,
        "device_code": device.device_code,
        "verification_uri": uri,
        "expires_in": registration.device_code_life.as_secs(),
        "interval": registration.device_interval.as_secs(),
        "message": format!("To sign in, open the page {uri} in a browser and enter the code {code}."),
    });
    locked(&world.sign_ins.devices).push(device);
    json_answer(StatusCode::OK, &body, &request.correlation)
}

/// Answers a poll of the token endpoint (RFC 8628 section 3.5).
pub(super) fn poll(world: &World, request: &Request) -> Result<SignedIn, Failure> {
    let presented = field(&request.form, "device_code")?;
    let mut devices = locked(&world.sign_ins.devices);
    let device = devices.iter_mut().find(|device| device.device_code == presented);
    let device = device.ok_or_else(|| fail(70_018, ""))?;
    if device.is_expired(world) {
        return Err(fail(70_020, ""));
    }
    let now = Instant::now();
    let early =
        device.polled.replace(now).is_some_and(|last| now - last + JITTER < device.interval);
    if early {
        device.interval += SLOWER;
        // Entra has no number for it
        return Err(fail(70_016, "").named("slow_down"));
    }
    match std::mem::replace(&mut device.state, State::Redeemed) {
        State::Approved(user) => Ok(SignedIn { user, scope: device.scope.clone(), nonce: None }),
        State::Redeemed => Err(fail(54_005, "")),
        State::Pending => {
            device.state = State::Pending;
            Err(fail(70_016, ""))
        }
        State::Declined => {
            device.state = State::Declined;
            Err(fail(65_004, "").named("authorization_declined"))
        }
    }
}

/// Shows the page on which a code is entered, or takes what was filled in.
pub(super) fn page(world: &World, request: &Request, tenant: &str) -> Response {
    if let Err(failure) = request.check(world, tenant) {
        return pages::failure(world, request, &failure);
    }
    if request.method != Method::POST {
        let code = request.query.get("user_code").map_or("", String::as_str);
        return SignIn { code: Some(code), ..SignIn::default() }.page();
    }
    let text = |name| request.form.get(name).map_or("", |text| text.trim());
    let (code, user) = (text("code"), text("user"));
    let again = |error: String| SignIn { user, code: Some(code), error: Some(error) }.page();
    let Some(scope) = world.sign_ins.scope_of(world, code) else {
        return again("That code is not known. Look at the device and try again.".to_owned());
    };
    if text("answer") == "cancel" {
        world.sign_ins.decide_device(code, None);
        return pages::done("You have declined the sign-in. You may close this window.");
    }
    let refused = match Scopes::asked(world, &scope) {
        Ok(scopes) => user::refused(world, request, &scopes),
        Err(failure) => Some(failure),
    };
    if let Some(failure) = refused {
        return again(failure.description(world, &request.correlation));
    }
    world.sign_ins.decide_device(code, Some(user));
    pages::done("You have signed in on your device. You may close this window.")
}

impl SignIns {
    /// The user codes that nobody has entered yet, oldest first.
    pub(crate) fn device_codes(&self) -> Vec<String> {
        let devices = locked(&self.devices);
        let pending = devices.iter().filter(|device| matches!(device.state, State::Pending));
        pending.map(|device| device.user_code.clone()).collect()
    }

    /// Signs the user in on the device that waits with this code, or declines for `None`.
    pub(crate) fn decide_device(&self, code: &str, user: Option<&str>) -> Option<()> {
        let mut devices = locked(&self.devices);
        let device = devices.iter_mut().find(|device| device.waits_with(code))?;
        device.state = user.map_or(State::Declined, |user| State::Approved(folded(user)));
        Some(())
    }

    /// The scope that the device with this code asked for.
    fn scope_of(&self, world: &World, code: &str) -> Option<String> {
        let devices = locked(&self.devices);
        let device = devices.iter().find(|device| device.waits_with(code))?;
        (!device.is_expired(world)).then(|| device.scope.clone())
    }
}

impl Device {
    /// People type in small letters and put in spaces or dashes (RFC 8628 section 6.1).
    fn waits_with(&self, code: &str) -> bool {
        let typed = code.chars().filter(char::is_ascii_alphanumeric);
        let typed = typed.map(|letter| letter.to_ascii_uppercase());
        matches!(self.state, State::Pending) && typed.eq(self.user_code.chars())
    }

    fn is_expired(&self, world: &World) -> bool {
        self.issued.elapsed() >= world.options.registration.device_code_life
    }
}

fn user_code() -> String {
    let letter = |octet: u8| ALPHABET.get(usize::from(octet) % ALPHABET.len()).copied();
    random(USER_CODE_LENGTH).into_iter().filter_map(letter).map(char::from).collect()
}
