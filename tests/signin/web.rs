//! A browser, as far as a sign-in needs one.

use std::sync::Once;

use tokio_rustls::rustls::crypto::ring;
use url::Url;

/// Follows no redirect by itself.
#[derive(Clone)]
pub(crate) struct Browser(reqwest::Client);

/// What it shows.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    /// Where it is sent on.
    pub(crate) location: Option<Url>,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: String,
}

impl Browser {
    pub(crate) fn new() -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| drop(ring::default_provider().install_default()));
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        Self(client.no_proxy().build().unwrap())
    }

    pub(crate) fn client(&self) -> reqwest::Client {
        self.0.clone()
    }

    pub(crate) async fn get(&self, url: impl reqwest::IntoUrl) -> Page {
        Page::of(self.0.get(url)).await
    }

    pub(crate) async fn head(&self, url: impl reqwest::IntoUrl) -> Page {
        Page::of(self.0.head(url)).await
    }

    pub(crate) async fn post(&self, url: impl reqwest::IntoUrl, fields: &[(&str, &str)]) -> Page {
        Page::of(self.0.post(url).form(fields)).await
    }

    /// Opens the page of a sign-in and signs this person in; where the browser is sent then.
    pub(crate) async fn sign_in(&self, url: &str, person: &str) -> Url {
        let page = self.get(url).await;
        assert!(page.status == 200 && page.body.contains("id=\"sign-in\""), "{page:?}");
        let form = [("user", person), ("password", "x"), ("answer", "sign-in")];
        self.post(url, &form).await.location.expect("the browser is sent back")
    }

    /// Opens the page of a sign-in and turns back.
    pub(crate) async fn cancel(&self, url: &str) -> Url {
        self.post(url, &[("answer", "cancel")]).await.location.expect("the browser is sent back")
    }
}

impl Page {
    async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let headers = response.headers().clone();
        let location = headers.get("location").map(|location| location.to_str().unwrap());
        Self {
            status: response.status().as_u16(),
            location: location.map(|location| Url::parse(location).unwrap()),
            headers,
            body: response.text().await.unwrap(),
        }
    }
}

/// A parameter of a URL.
pub(crate) fn parameter(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(own, _)| own == name).map(|(_, value)| value.into_owned())
}

/// The URL with this parameter instead of its own; none: without it.
pub(crate) fn with(url: &Url, name: &str, value: Option<&str>) -> Url {
    let others: Vec<_> = url.query_pairs().into_owned().filter(|(own, _)| own != name).collect();
    let mut changed = url.clone();
    changed.query_pairs_mut().clear().extend_pairs(others);
    if let Some(value) = value {
        changed.query_pairs_mut().append_pair(name, value);
    }
    changed
}

/// The URL at this loopback address instead of `localhost`.
pub(crate) fn at(url: &Url, address: &str) -> Url {
    let mut changed = url.clone();
    changed.set_host(Some(address)).unwrap();
    changed
}
