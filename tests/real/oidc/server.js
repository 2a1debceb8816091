// The authorization server of the real tests: oidc-provider, with what a mail service needs of it.
//
// Access tokens are RS256 JWTs that Dovecot checks by itself. Their claims say whose mail they open:
//   email   the person who signed in, or the client's id in an app-only token
//   shared  the shared mailbox that this person may open besides
//   domain  in an app-only token "any@DOMAIN": every mailbox of the domain; else a name nobody has
// A padding claim brings them to the size of Entra's.
//
// Standard input holds the clients and people, standard output gets one line with the ports. A second
// port is for the tests alone: the public key, a refresh token without a browser, what was issued and
// revoked, and revoking.
import http from 'node:http';
import { X509Certificate, generateKeyPairSync, randomUUID } from 'node:crypto';
import { text } from 'node:stream/consumers';
import Provider from 'oidc-provider';
import { withPages } from './interactions.js';

const RESOURCE = 'https://mail.contoso.test/';
const KEY_ID = 'gatepost-test';
// 1,280 octets of padding make a token of about 2,500: the upper end of what Entra sends.
const PADDING = 'gatepost'.repeat(160);

const setup = JSON.parse(await text(process.stdin));
const { publicKey, privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const issued = { requests: [], secrets: [], revoked: [] };
// Grants by client and mailbox, the newest last.
const grants = [];

function extraTokenClaims(ctx, token) {
  const client = setup.clients.find((candidate) => candidate.id === token.clientId);
  const person = setup.people.find((candidate) => candidate.mailbox === token.accountId);
  return {
    email: person?.mailbox ?? client.id,
    shared: person?.shared ?? 'nobody@shared.invalid',
    domain: person ? 'nobody@app-only.invalid' : `any@${client.domain}`,
    padding: PADDING,
  };
}

// "refresh_token" is a client that people sign in to; the tests give it its first token without a browser.
const GRANT_TYPES = {
  client_credentials: ['client_credentials'],
  refresh_token: ['authorization_code', 'refresh_token'],
  device_code: ['urn:ietf:params:oauth:grant-type:device_code', 'refresh_token'],
};

function clientMetadata({ id, secret, certificates, grant, redirectUris }) {
  const browser = grant === 'refresh_token';
  return {
    client_id: id,
    ...authentication(secret, certificates),
    grant_types: GRANT_TYPES[grant],
    response_types: browser ? ['code'] : [],
    redirect_uris: browser ? redirectUris ?? ['https://client.invalid/'] : [],
    // As RFC 8252 section 7.3 has it: http on loopback, with any port.
    application_type: redirectUris ? 'native' : 'web',
  };
}

function authentication(secret, certificates) {
  if (secret) return { client_secret: secret, token_endpoint_auth_method: 'client_secret_post' };
  if (!certificates) return { token_endpoint_auth_method: 'none' };
  const keys = certificates.map((pem) => new X509Certificate(pem).publicKey.export({ format: 'jwk' }));
  return { jwks: { keys }, token_endpoint_auth_method: 'private_key_jwt' };
}

function configuration() {
  return {
    clients: setup.clients.map(clientMetadata),
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: KEY_ID, use: 'sig', alg: 'RS256' }] },
    findAccount: (ctx, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
    rotateRefreshToken: true,
    pkce: { required: () => true },
    cookies: { keys: [randomUUID()] },
    extraTokenClaims,
    // Dovecot takes no other type than JWT, the provider would write "at+jwt".
    formats: { customizers: { jwt: (ctx, token, jwt) => { jwt.header = { typ: 'JWT' }; } } },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      deviceFlow: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        // gatepost, like every client of Entra, sends no "resource".
        defaultResource: () => RESOURCE,
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx, resource, client) => ({
          scope: 'mail',
          audience: RESOURCE,
          accessTokenFormat: 'jwt',
          accessTokenTTL: setup.clients.find(({ id }) => id === client.clientId).life ?? 3600,
          jwt: { sign: { alg: 'RS256', kid: KEY_ID } },
        }),
      },
    },
  };
}

function record(ctx, error) {
  const { client_id: client, grant_type: grant, client_assertion: assertion } = ctx.oidc.params ?? {};
  const about = {
    client, grant, at: Date.now(), error: error?.error_description ?? error?.message ?? null, assertion: decoded(assertion),
  };
  issued.requests.push(about);
  if (!error) issued.secrets.push(...[ctx.body.access_token, ctx.body.refresh_token].filter(Boolean));
}

/** Header and claims of a JWT, without its signature. */
function decoded(jwt) {
  const part = (text) => JSON.parse(Buffer.from(text, 'base64url'));
  return jwt ? jwt.split('.').slice(0, 2).map(part) : null;
}

async function mintRefreshToken(provider, { client: clientId, mailbox: accountId }) {
  const scope = 'mail offline_access';
  const client = await provider.Client.find(clientId);
  const grant = new provider.Grant({ accountId, clientId });
  grant.addResourceScope(RESOURCE, 'mail');
  const token = new provider.RefreshToken({
    accountId, client, scope, resource: RESOURCE, grantId: await grant.save(), gty: 'authorization_code',
  });
  const value = await token.save();
  issued.secrets.push(value);
  return value;
}

/** As an administrator does it: this person's sign-in to this client is over. */
async function revoke(provider, { client, mailbox }) {
  const { grantId } = grants.findLast((known) => known.clientId === client && known.accountId === mailbox);
  await provider.RefreshToken.revokeByGrantId(grantId);
  await (await provider.Grant.find(grantId)).destroy();
  return '';
}

async function answerTests(provider, request) {
  switch (request.url) {
    case '/public-key': return publicKey.export({ format: 'pem', type: 'spki' });
    case '/refresh-token': return mintRefreshToken(provider, JSON.parse(await text(request)));
    case '/revoke': return revoke(provider, JSON.parse(await text(request)));
    case '/issued': return JSON.stringify(issued);
    default: throw new Error(`nothing at ${request.url}`);
  }
}

async function listen(server) {
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  return server.address().port;
}

const tokens = http.createServer();
const port = await listen(tokens);
const provider = new Provider(`http://127.0.0.1:${port}`, configuration());
provider.on('grant.success', (ctx) => record(ctx));
provider.on('grant.error', record);
// The provider's own punishment for a refresh token or code that comes twice.
provider.on('grant.revoked', (ctx) => issued.revoked.push({ client: ctx.oidc.client?.clientId }));
provider.on('refresh_token.saved', ({ clientId, accountId, grantId }) => grants.push({ clientId, accountId, grantId }));
provider.on('server_error', (ctx, error) => console.error(error));
tokens.on('request', withPages(provider));

const tests = http.createServer((request, response) => {
  answerTests(provider, request).then(
    (answer) => response.end(answer),
    (error) => { response.statusCode = 500; response.end(String(error.stack)); },
  );
});
console.log(JSON.stringify({ tokens: port, tests: await listen(tests), key: KEY_ID }));
