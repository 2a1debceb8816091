//! Sign-ins and assertions at the emulated Entra, over HTTP: before it may judge the proxy, it is judged
//! here.

mod assertions;
mod authorize;
mod device;
mod others;

use std::sync::Once;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use gatepost::emulator::{Control, Emulator, Options, Registration};
use serde_json::Value;
use tokio_rustls::rustls::crypto::ring;
use url::{Url, form_urlencoded};

const JANE: &str = "jane@contoso.example";
const IMAP: &str = "https://outlook.office.com/IMAP.AccessAsUser.All";

/// An emulator, and a browser that follows no redirect.
struct Web {
    emulator: Emulator,
    client: reqwest::Client,
    client_id: String,
}

/// Status, `Location` and body of an answer.
struct Answer {
    status: u16,
    location: Option<Url>,
    date: String,
    body: String,
}

impl Web {
    async fn new(registration: Registration) -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| drop(ring::default_provider().install_default()));
        let options = Options { registration, ..Options::default() };
        let client_id = options.app.client_id.clone();
        let emulator = Emulator::start(options).await.unwrap();
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        Self { emulator, client: client.build().unwrap(), client_id }
    }

    fn control(&self) -> &Control {
        self.emulator.control()
    }

    async fn get(&self, url: &str) -> Answer {
        Answer::of(self.client.get(url)).await
    }

    async fn post(&self, url: &str, fields: &[(&str, &str)]) -> Answer {
        Answer::of(self.client.post(url).form(fields)).await
    }

    /// A token request of this client.
    async fn token(&self, fields: &[(&str, &str)]) -> (u16, Value) {
        let mut all = vec![("client_id", self.client_id.as_str())];
        all.extend(fields);
        let answer = self.post(&self.emulator.token_url(), &all).await;
        (answer.status, serde_json::from_str(&answer.body).unwrap())
    }

    /// Refused by the token endpoint: status, OAuth error, AADSTS number.
    async fn refused(&self, fields: &[(&str, &str)]) -> (u16, String, u64) {
        let (status, body) = self.token(fields).await;
        let error = body["error"].as_str().unwrap_or_else(|| panic!("not refused: {body}"));
        (status, error.to_owned(), body["error_codes"][0].as_u64().unwrap())
    }
}

impl Answer {
    async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let header = |name: &str| {
            let value = response.headers().get(name);
            value.map(|value| value.to_str().unwrap().to_owned())
        };
        Self {
            status: response.status().as_u16(),
            location: header("location").map(|location| Url::parse(&location).unwrap()),
            date: header("date").unwrap_or_default(),
            body: response.text().await.unwrap(),
        }
    }

    /// A parameter of the URL that the browser is sent to.
    fn parameter(&self, name: &str) -> Option<String> {
        let location = self.location.as_ref().unwrap_or_else(|| panic!("stays: {}", self.body));
        location.query_pairs().find(|(own, _)| own == name).map(|(_, value)| value.into_owned())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// The URL with these parameters.
fn with(url: &str, parameters: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(parameters);
    format!("{url}?{}", query.finish())
}

/// The claims of a token.
fn claims(token: &Value) -> Value {
    let claims = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}
