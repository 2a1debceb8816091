# Perl's mail libraries: library.pl NAME PROTOCOL TLS PORT USER PASSWORD CA SENDER RECIPIENT.
# What reads prints message 1 of the inbox; what sends takes the message from standard input.
use strict;
use warnings;

my ($name, $protocol, $tls, $port, $user, $password, $ca, $sender, $recipient) = @ARGV;
my @trust = (SSL_ca_file => $ca, SSL_verify_mode => 1, SSL_verifycn_name => 'localhost');

my %work = (
    'Mail::IMAPClient'  => \&mail_imapclient,
    'Net::IMAP::Simple' => \&net_imap_simple,
    'Net::POP3'         => \&net_pop3,
    'Mail::POP3Client'  => \&mail_pop3client,
    'Net::SMTP'         => \&net_smtp,
);
eval "require $name; 1" or die $@;
$work{$name}->();

sub mail_imapclient {
    my $server = Mail::IMAPClient->new(
        Server => 'localhost', Port => $port, User => $user, Password => $password, Uid => 0,
        ($tls eq 'implicit' ? (Ssl => [@trust]) : ()), ($tls eq 'starttls' ? (Starttls => [@trust]) : ()),
    ) or die "Mail::IMAPClient: $@";
    $server->examine('INBOX') or die $server->LastError;
    print $server->message_string(1) // die $server->LastError;
    $server->logout;
}

sub net_imap_simple {
    my $server = Net::IMAP::Simple->new("localhost:$port", timeout => 30,
        ($tls eq 'implicit' ? (use_ssl => 1, ssl_options => [@trust]) : ()))
        or die "Net::IMAP::Simple: $Net::IMAP::Simple::errstr";
    $server->login($user, $password) or die 'login: ' . $server->errstr;
    $server->select('INBOX', 1) or die 'select: ' . $server->errstr;
    print join '', @{ $server->get(1) || die 'get: ' . $server->errstr };
    $server->quit;
}

sub net_pop3 {
    my $server = Net::POP3->new('localhost', Port => $port, Timeout => 30,
        ($tls eq 'implicit' ? (SSL => 1, @trust) : ())) or die "Net::POP3: $@";
    $server->starttls(@trust) or die 'STLS: ' . $server->message if $tls eq 'starttls';
    defined $server->login($user, $password) or die 'login: ' . $server->message;
    print @{ $server->get(1) || die 'get: ' . $server->message };
    $server->quit;
}

sub mail_pop3client {
    my $server = Mail::POP3Client->new(HOST => 'localhost', PORT => $port, USER => $user, PASSWORD => $password,
        AUTH_MODE => 'PASS', USESSL => $tls eq 'implicit', TIMEOUT => 30);
    $server->Alive or die 'Mail::POP3Client: ' . $server->Message;
    $server->State eq 'TRANSACTION' or die 'login: ' . $server->Message;
    print $server->HeadAndBody(1) || die 'RETR: ' . $server->Message;
    $server->Close;
}

sub net_smtp {
    my $server = Net::SMTP->new('localhost', Port => $port, Timeout => 30, Hello => 'bench.test',
        ($tls eq 'implicit' ? (SSL => 1, @trust) : ())) or die "Net::SMTP: $@";
    $server->starttls(@trust) or die 'STARTTLS: ' . $server->message if $tls eq 'starttls';
    $server->auth($user, $password) or die 'auth: ' . $server->message;
    binmode STDIN;
    $server->mail($sender) && $server->to($recipient) && $server->data(map { s/\r\n$/\n/r } <STDIN>)
        or die 'send: ' . $server->message;
    $server->quit;
}
