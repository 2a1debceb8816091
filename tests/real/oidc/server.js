// The authorization server of the real tests: oidc-provider, with what a mail service needs of it.
//
// Access tokens are RS256 JWTs that Dovecot checks by itself. Their claims say whose mail they open:
//   email   the person who signed in, or the client's id in an app-only token
//   shared  the shared mailbox that this person may open besides
//   domain  in an app-only token "any@DOMAIN": every mailbox of the domain; else a name nobody has
// A padding claim brings them to the size of Entra's.
//
// Standard input holds the clients and people, standard output gets one line with the ports. A second
// port is for the tests alone: the public key, a refresh token without a browser, what was issued.
import http from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import { text } from 'node:stream/consumers';
import Provider from 'oidc-provider';

const RESOURCE = 'https://mail.contoso.test/';
const KEY_ID = 'gatepost-test';
// 1,280 octets of padding make a token of about 2,500: the upper end of what Entra sends.
const PADDING = 'gatepost'.repeat(160);

const setup = JSON.parse(await text(process.stdin));
const { publicKey, privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const issued = { requests: [], secrets: [] };

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

function clientMetadata({ id, secret, grant }) {
  return {
    client_id: id,
    client_secret: secret,
    token_endpoint_auth_method: secret ? 'client_secret_post' : 'none',
    // The provider grants a refresh token only to clients that could sign somebody in.
    grant_types: grant === 'refresh_token' ? ['authorization_code', 'refresh_token'] : [grant],
    response_types: grant === 'refresh_token' ? ['code'] : [],
    redirect_uris: grant === 'refresh_token' ? ['https://client.invalid/'] : [],
  };
}

function configuration() {
  return {
    clients: setup.clients.map(clientMetadata),
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: KEY_ID, use: 'sig', alg: 'RS256' }] },
    findAccount: (ctx, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
    rotateRefreshToken: true,
    extraTokenClaims,
    // Dovecot takes no other type than JWT, the provider would write "at+jwt".
    formats: { customizers: { jwt: (ctx, token, jwt) => { jwt.header = { typ: 'JWT' }; } } },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
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
  const { client_id: client, grant_type: grant } = ctx.oidc.params ?? {};
  issued.requests.push({ client, grant, error: error?.error_description ?? error?.message ?? null });
  if (!error) issued.secrets.push(...[ctx.body.access_token, ctx.body.refresh_token].filter(Boolean));
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

async function answerTests(provider, request) {
  switch (request.url) {
    case '/public-key': return publicKey.export({ format: 'pem', type: 'spki' });
    case '/refresh-token': return mintRefreshToken(provider, JSON.parse(await text(request)));
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
provider.on('server_error', (ctx, error) => console.error(error));
tokens.on('request', provider.callback());

const tests = http.createServer((request, response) => {
  answerTests(provider, request).then(
    (answer) => response.end(answer),
    (error) => { response.statusCode = 500; response.end(String(error.stack)); },
  );
});
console.log(JSON.stringify({ tokens: port, tests: await listen(tests), key: KEY_ID }));
