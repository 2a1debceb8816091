<?php
// PHPMailer: phpmailer.php MECHANISM PROTOCOL TLS PORT USER PASSWORD CA SENDER RECIPIENT SUBJECT.
// Sends the text that comes on standard input.
require '/usr/share/php/libphp-phpmailer/autoload.php';

[, $mechanism, , $tls, $port, $user, $password, $ca, $sender, $recipient, $subject] = $argv;
$mail = new PHPMailer\PHPMailer\PHPMailer(true);
$mail->isSMTP();
$mail->Host = 'localhost';
$mail->Port = (int) $port;
$mail->Timeout = 30;
$mail->SMTPSecure = ['none' => '', 'starttls' => 'tls', 'implicit' => 'ssl'][$tls];
$mail->SMTPAutoTLS = $tls === 'starttls';
$mail->SMTPOptions = ['ssl' => ['cafile' => $ca]];
$mail->SMTPAuth = true;
$mail->AuthType = $mechanism === 'default' ? '' : $mechanism;
$mail->Username = $user;
$mail->Password = $password;
$mail->setFrom($sender);
$mail->addAddress($recipient);
$mail->Subject = $subject;
$mail->Body = stream_get_contents(STDIN);
$mail->send();
