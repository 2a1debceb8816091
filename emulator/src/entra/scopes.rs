//! Scopes: what they ask for, and what comes of it.
//!
//! Invariant: an access token is for one resource, and has no permission that the registration lacks.

use serde_json::{Value, json};

use super::failure::{Failure, fail};
use crate::{
    World,
    tokens::{DELEGATED, GRAPH, Principal, Wanted},
};

/// Resources that scopes may name: Exchange by both of its names, and Graph.
const RESOURCES: [&str; 3] = ["https://outlook.office.com", "https://outlook.office365.com", GRAPH];

/// Scopes of OpenID Connect, which belong to no resource.
const OPENID: [&str; 4] = ["openid", "profile", "email", "offline_access"];

/// From this life on, Entra tells when to refresh: at half of it.
const REFRESH_IN_FROM: u64 = 2 * 3_600;

/// Delegated scopes, taken apart.
pub(super) struct Scopes {
    pub(super) resource: String,
    /// Short names.
    pub(super) permissions: Vec<String>,
    /// `offline_access`: a refresh token is wanted.
    pub(super) offline: bool,
    /// `openid`: an ID token is wanted.
    pub(super) openid: bool,
}

impl Scopes {
    /// What a sign-in asks to be consented to, by resource: it may name several. Tokens are the first one's, unless
    /// the token request names another.
    pub(super) fn asked(world: &World, scope: &str) -> Result<Vec<Self>, Failure> {
        by_resource(scope).iter().map(|scope| Self::delegated(world, scope)).collect()
    }

    /// Space-separated delegated scopes; one request, one resource.
    pub(super) fn delegated(world: &World, scope: &str) -> Result<Self, Failure> {
        let (mut resource, mut permissions) = (None, Vec::new());
        for item in scope.split_whitespace().filter(|item| !OPENID.contains(item)) {
            let (own, name) = item.rsplit_once('/').unwrap_or((GRAPH, item));
            match name {
                _ if *resource.get_or_insert(own) != own => return Err(fail(28_000, scope)),
                _ if !RESOURCES.contains(&own) => return Err(fail(70_011, scope)),
                ".default" => permissions.extend(consented_of(world, own).clone()),
                _ if own == GRAPH || DELEGATED.contains(&name) => permissions.push(name.to_owned()),
                _ => return Err(fail(70_011, scope)),
            }
        }
        let has = |name| scope.split_whitespace().any(|item| item == name);
        let (offline, openid) = (has("offline_access"), has("openid"));
        let resource = resource.unwrap_or(GRAPH).to_owned();
        Ok(Self { resource, permissions, offline, openid })
    }

    /// Refuses permissions that nobody has consented to.
    pub(super) fn consented(self, world: &World) -> Result<Self, Failure> {
        let missing = self.unconsented(world).map(|name| fail(65_001, name));
        missing.map_or(Ok(self), Err)
    }

    /// The first permission that nobody has consented to.
    pub(super) fn unconsented(&self, world: &World) -> Option<String> {
        let consented = consented_of(world, &self.resource);
        let missing = |name: &&String| !consented.contains(name);
        self.permissions.iter().find(missing).cloned()
    }

    /// A token answer for a user, without a refresh token.
    pub(super) fn issue(self, world: &World, user: &str) -> Value {
        issue(world, Principal::User(user.to_owned()), &self.resource, self.permissions)
    }
}

/// The scopes of one resource each, in the order of the resources, with those of OpenID Connect.
pub(super) fn by_resource(scope: &str) -> Vec<String> {
    let openid: Vec<&str> = scope.split_whitespace().filter(|item| OPENID.contains(item)).collect();
    let mut parts: Vec<(&str, Vec<&str>)> = Vec::new();
    for item in scope.split_whitespace().filter(|item| !OPENID.contains(item)) {
        let resource = item.rsplit_once('/').map_or(GRAPH, |(resource, _)| resource);
        match parts.iter_mut().find(|(known, _)| *known == resource) {
            Some((_, items)) => items.push(item),
            None => parts.push((resource, vec![item])),
        }
    }
    if parts.is_empty() {
        parts.push((GRAPH, Vec::new()));
    }
    let whole = |(_, items): (&str, Vec<&str>)| [items, openid.clone()].concat().join(" ");
    parts.into_iter().map(whole).collect()
}

/// The resource of `RESOURCE/.default`, the one form that app-only scopes have.
pub(super) fn default_of(scope: &str) -> Result<&str, Failure> {
    let resource = scope.strip_suffix("/.default").ok_or_else(|| fail(1_002_012, scope))?;
    known_resource(resource)
}

/// The resource itself, if it is one of this tenant's; a slash at its end stays.
pub(super) fn known_resource(resource: &str) -> Result<&str, Failure> {
    let known = RESOURCES.contains(&resource.strip_suffix('/').unwrap_or(resource));
    known.then_some(resource).ok_or_else(|| fail(500_011, resource))
}

/// A token answer for the app itself.
pub(super) fn issue_app_only(world: &World, resource: &str) -> Value {
    let registration = &world.options.registration;
    let roles = if is_graph(resource) { &registration.graph_roles } else { &registration.roles };
    issue(world, Principal::App, resource, roles.clone())
}

/// The delegated permissions of a resource that were consented to.
fn consented_of<'a>(world: &'a World, resource: &str) -> &'a Vec<String> {
    let registration = &world.options.registration;
    if is_graph(resource) { &registration.graph_consented } else { &registration.consented }
}

fn is_graph(resource: &str) -> bool {
    resource.strip_suffix('/').unwrap_or(resource) == GRAPH
}

pub(super) fn issue(
    world: &World,
    principal: Principal,
    resource: &str,
    permissions: Vec<String>,
) -> Value {
    let life = world.token_life();
    let seconds = life.as_secs();
    let mut issued =
        json!({ "token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds });
    if principal != Principal::App {
        let scopes = permissions.iter().map(|name| format!("{resource}/{name}"));
        issued["scope"] = json!(scopes.collect::<Vec<_>>().join(" "));
    }
    if seconds >= REFRESH_IN_FROM {
        issued["refresh_in"] = json!(seconds / 2);
    }
    let wanted = Wanted { principal, audience: resource.to_owned(), permissions, life };
    issued["access_token"] = json!(world.tokens.access(wanted, world.now()));
    issued
}
