# Ruby's mail libraries: library.rb MECHANISM PROTOCOL TLS PORT USER PASSWORD CA SENDER RECIPIENT.
# What reads prints message 1 of the inbox; what sends takes the message from standard input.
require 'net/imap'
require 'net/pop'
require 'net/smtp'

MECHANISM, PROTOCOL, TLS, PORT, USER, PASSWORD, CA, SENDER, RECIPIENT = ARGV
TRUST = { ca_file: CA, verify_mode: OpenSSL::SSL::VERIFY_PEER }.freeze

def imap
  server = Net::IMAP.new('localhost', port: PORT.to_i, ssl: TLS == 'implicit' ? TRUST : nil)
  server.starttls(TRUST) if TLS == 'starttls'
  MECHANISM == 'login' ? server.login(USER, PASSWORD) : server.authenticate(MECHANISM.upcase, USER, PASSWORD)
  server.examine('INBOX')
  print server.fetch(1, 'BODY.PEEK[]')[0].attr['BODY[]']
  server.logout
end

def pop3
  server = Net::POP3.new('localhost', PORT.to_i)
  server.enable_ssl(OpenSSL::SSL::VERIFY_PEER, CA) if TLS == 'implicit'
  server.start(USER, PASSWORD) { |session| print session.mails.first.pop }
end

def smtp
  server = Net::SMTP.new('localhost', PORT.to_i)
  context = OpenSSL::SSL::SSLContext.new.tap { |made| made.set_params(**TRUST) }
  server.disable_starttls if TLS == 'none' && server.respond_to?(:disable_starttls)
  server.enable_starttls(context) if TLS == 'starttls'
  server.enable_tls(context) if TLS == 'implicit'
  server.start(helo: 'bench.test', user: USER, secret: PASSWORD, authtype: MECHANISM.to_sym) do |session|
    session.send_message($stdin.binmode.read, SENDER, RECIPIENT)
  end
end

send(PROTOCOL)
