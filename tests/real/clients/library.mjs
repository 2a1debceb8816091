// Node's mail libraries: library.mjs [MECHANISM] PROTOCOL TLS PORT USER PASSWORD CA SENDER RECIPIENT.
// What reads prints message 1 of the inbox; what sends takes the message from standard input.
import { readFileSync } from 'node:fs';
import { buffer } from 'node:stream/consumers';

const [recipient, sender, ca, password, user, port, tls, protocol, mechanism] = process.argv.slice(2).reverse();
const common = { host: 'localhost', port: Number(port), secure: tls === 'implicit', tls: { ca: readFileSync(ca) } };

async function imap() {
  const { ImapFlow } = await import('imapflow');
  const server = new ImapFlow({ ...common, auth: { user, pass: password }, doSTARTTLS: tls === 'starttls', logger: false });
  await server.connect();
  await server.mailboxOpen('INBOX', { readOnly: true });
  const { source } = await server.fetchOne('1', { source: true });
  process.stdout.write(source);
  await server.logout();
}

async function smtp() {
  const { createTransport } = (await import('nodemailer')).default;
  const server = createTransport({
    ...common, auth: { user, pass: password }, authMethod: mechanism, requireTLS: tls === 'starttls',
  });
  await server.sendMail({ envelope: { from: sender, to: [recipient] }, raw: await buffer(process.stdin) });
  server.close();
}

await { imap, smtp }[protocol]();
