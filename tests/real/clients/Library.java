// JavaMail: Library.java PROTOCOL TLS PORT USER PASSWORD CA SENDER RECIPIENT.
// What reads prints message 1 of the inbox; what sends takes the message from standard input.
import java.io.FileInputStream;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.Properties;
import javax.mail.Folder;
import javax.mail.Session;
import javax.mail.Store;
import javax.mail.Transport;
import javax.mail.internet.InternetAddress;
import javax.mail.internet.MimeMessage;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Library {
    public static void main(String[] argv) throws Exception {
        String protocol = argv[0], tls = argv[1], user = argv[3], password = argv[4];
        int port = Integer.parseInt(argv[2]);
        Properties settings = new Properties();
        String prefix = "mail." + protocol + ".";
        settings.put(prefix + "ssl.enable", String.valueOf(tls.equals("implicit")));
        settings.put(prefix + "starttls.enable", String.valueOf(tls.equals("starttls")));
        settings.put(prefix + "starttls.required", String.valueOf(tls.equals("starttls")));
        settings.put(prefix + "ssl.socketFactory", trusting(argv[5]).getSocketFactory());
        settings.put(prefix + "ssl.checkserveridentity", "true");
        settings.put(prefix + "auth", "true");
        for (String limit : new String[] {"connectiontimeout", "timeout"}) settings.put(prefix + limit, "30000");
        Session session = Session.getInstance(settings);
        if (protocol.equals("smtp")) {
            send(session, port, user, password, argv[6], argv[7]);
        } else {
            read(session.getStore(protocol), port, user, password);
        }
    }

    static SSLContext trusting(String file) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (FileInputStream pem = new FileInputStream(file)) {
            store.setCertificateEntry("bench", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        TrustManagerFactory managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        return context;
    }

    static void read(Store store, int port, String user, String password) throws Exception {
        store.connect("localhost", port, user, password);
        Folder inbox = store.getFolder("INBOX");
        inbox.open(Folder.READ_ONLY);
        inbox.getMessage(1).writeTo(System.out);
        inbox.close(false);
        store.close();
    }

    static void send(Session session, int port, String user, String password, String sender, String recipient)
            throws Exception {
        MimeMessage message = new MimeMessage(session, System.in);
        session.getProperties().put("mail.smtp.from", sender);
        Transport transport = session.getTransport("smtp");
        transport.connect("localhost", port, user, password);
        transport.sendMessage(message, new InternetAddress[] {new InternetAddress(recipient)});
        transport.close();
    }
}
