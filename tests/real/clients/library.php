<?php
// PHP's imap extension (the C client of Pine): library.php PROTOCOL TLS PORT USER PASSWORD ...
// Prints message 1 of the inbox.
[, $protocol, $tls, $port, $user, $password] = $argv;
// It verifies against the system's roots alone, so here it does not verify.
$flags = ['none' => '/notls', 'implicit' => '/ssl/novalidate-cert'][$tls];
$inbox = imap_open("{localhost:$port/$protocol$flags}INBOX", $user, $password, $protocol === 'imap' ? OP_READONLY : 0, 1);
if (!$inbox) {
    fwrite(STDERR, implode("\n", imap_errors() ?: ['no reason given']) . "\n");
    exit(1);
}
echo imap_fetchheader($inbox, 1), imap_body($inbox, 1, FT_PEEK);
imap_close($inbox);
