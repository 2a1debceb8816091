// Node's mail libraries: library.mjs NAME [MECHANISM] PROTOCOL TLS PORT USER PASSWORD CA SENDER RECIPIENT.
// What reads prints message 1 of the inbox; what sends takes the message from standard input.
import { readFileSync } from 'node:fs';
import { buffer } from 'node:stream/consumers';

const name = process.argv[2];
const [recipient, sender, ca, password, user, port, tls, , mechanism] = process.argv.slice(3).reverse();
const trust = { ca: readFileSync(ca), servername: 'localhost' };
const common = { host: 'localhost', port: Number(port), secure: tls === 'implicit', tls: trust };

const work = {
  async imapflow() {
    const { ImapFlow } = await import('imapflow');
    const server = new ImapFlow({ ...common, auth: { user, pass: password }, doSTARTTLS: tls === 'starttls', logger: false });
    await server.connect();
    await server.mailboxOpen('INBOX', { readOnly: true });
    const { source } = await server.fetchOne('1', { source: true });
    process.stdout.write(source);
    await server.logout();
  },

  async imap() {
    const Connection = (await import('imap')).default;
    const server = new Connection({
      ...common, user, password, tls: tls === 'implicit', autotls: tls === 'starttls' ? 'required' : 'never', tlsOptions: trust,
    });
    await new Promise((resolve, reject) => { server.once('ready', resolve).once('error', reject).connect(); });
    await new Promise((resolve, reject) => { server.openBox('INBOX', true, (error) => (error ? reject(error) : resolve())); });
    await new Promise((resolve, reject) => {
      const fetching = server.seq.fetch('1', { bodies: '' });
      fetching.on('message', (message) => message.on('body', (stream) => stream.pipe(process.stdout)));
      fetching.once('error', reject).once('end', resolve);
    });
    server.end();
  },

  async 'node-pop3'() {
    const Connection = (await import('node-pop3')).default;
    const server = new Connection({ ...common, user, password, tls: tls === 'implicit', tlsOptions: trust, timeout: 30000 });
    // It leaves the doubled dots (RFC 1939 section 3) to its caller.
    process.stdout.write((await server.RETR(1)).replace(/^\.\./gm, '.'));
    await server.QUIT();
  },

  async nodemailer() {
    const { createTransport } = (await import('nodemailer')).default;
    const server = createTransport({
      ...common, auth: { user, pass: password }, authMethod: mechanism, requireTLS: tls === 'starttls',
    });
    await server.sendMail({ envelope: { from: sender, to: [recipient] }, raw: await buffer(process.stdin) });
    server.close();
  },
};

await work[name]();
