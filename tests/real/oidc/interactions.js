// The pages on which a person signs in and agrees: what oidc-provider leaves to those who use it.
//
// There is no password: who types a mailbox is its owner. Buttons have an id, for the browser of the tests.
import { URLSearchParams } from 'node:url';
import { text } from 'node:stream/consumers';

const PATH = /^\/interaction\//;

/** Answers what belongs to these pages, and leaves the rest to the provider. */
export function withPages(provider) {
  const provide = provider.callback();
  return (request, response) => {
    if (!PATH.test(request.url)) return provide(request, response);
    const answer = request.method === 'POST' ? submitted : shown;
    return answer(provider, request, response).catch((error) => {
      response.statusCode = 500;
      response.end(String(error.stack));
    });
  };
}

async function shown(provider, request, response) {
  const { prompt, params } = await provider.interactionDetails(request, response);
  response.setHeader('Content-Type', 'text/html; charset=utf-8');
  response.setHeader('Cache-Control', 'no-store');
  response.end(page(prompt.name === 'login' ? loginForm(params) : consentForm(params)));
}

async function submitted(provider, request, response) {
  const interaction = await provider.interactionDetails(request, response);
  const form = new URLSearchParams(await text(request));
  const result = form.get('answer') === 'cancel'
    ? { error: 'access_denied', error_description: 'the person <b>pressed</b> cancel' }
    : await agreed(provider, interaction, form.get('mailbox'));
  await provider.interactionFinished(request, response, result);
}

async function agreed(provider, { prompt, params, session, grantId }, mailbox) {
  if (prompt.name === 'login') return { login: { accountId: mailbox } };
  const grant = (grantId && await provider.Grant.find(grantId))
    || new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  const { missingOIDCScope = [], missingResourceScopes = {} } = prompt.details;
  grant.addOIDCScope(missingOIDCScope.join(' '));
  for (const [resource, scopes] of Object.entries(missingResourceScopes)) {
    grant.addResourceScope(resource, scopes.join(' '));
  }
  return { consent: { grantId: await grant.save() } };
}

function loginForm({ login_hint: hint = '' }) {
  return `<h1>Sign in</h1>
    <input id="mailbox" name="mailbox" value="${escaped(hint)}">
    <button id="sign-in" name="answer" value="go">Sign in</button>`;
}

function consentForm({ client_id: client, scope }) {
  return `<h1>Permissions</h1><p>${escaped(client)} wants: ${escaped(scope ?? '')}</p>
    <button id="accept" name="answer" value="go">Accept</button>`;
}

function page(form) {
  return `<!DOCTYPE html><html lang="en"><title>Sign in</title><form method="post">${form}
    <button id="cancel" name="answer" value="cancel">Cancel</button></form></html>`;
}

function escaped(words) {
  return words.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
}
