//! `gatepost entra`: the script is parsed by a grammar of PowerShell, and what stands in it is compared with the
//! configuration.
//!
//! Invariant: no PowerShell runs here. The grammar finds what is no PowerShell; the rules below find what PowerShell
//! would find only when it runs.

mod powershell;

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};

use gatepost::config::Config;
use gatepost::entra::{EntraError, Made, script};
use proptest::prelude::*;
use tree_sitter::Node;

use powershell::{Tables, commands, functions, of_kind, parse, text};

const CLIENT_ID: &str = "1b4e28ba-2fa1-41d2-883f-0016d3cca427";

/// Where the code begins, which is the same in all scripts.
const CODE: &str = "# ---- How it is done ---";

/// What the script calls of PowerShell itself.
const OF_POWERSHELL: [&str; 17] = [
    "ForEach-Object",
    "Get-Command",
    "Get-Date",
    "Get-Module",
    "Group-Object",
    "New-Object",
    "Out-Null",
    "Select-Object",
    "Set-StrictMode",
    "Sort-Object",
    "Start-Sleep",
    "Where-Object",
    "Write-Host",
    // Of the modules, about the session alone.
    "Connect-ExchangeOnline",
    "Connect-MgGraph",
    "Disconnect-ExchangeOnline",
    "Disconnect-MgGraph",
];

/// What it calls of Microsoft.Graph.Applications, Microsoft.Graph.Authentication and ExchangeOnlineManagement.
const OF_MODULES: [&str; 31] = [
    "Add-MailboxPermission",
    "Add-MgApplicationPassword",
    "Add-RecipientPermission",
    "Get-CASMailbox",
    "Get-ConnectionInformation",
    "Get-EXOMailbox",
    "Get-MailboxPermission",
    "Get-ManagementRoleAssignment",
    "Get-ManagementScope",
    "Get-MgApplication",
    "Get-MgApplicationFederatedIdentityCredential",
    "Get-MgContext",
    "Get-MgServicePrincipal",
    "Get-MgServicePrincipalAppRoleAssignment",
    "Get-MgServicePrincipalOauth2PermissionGrant",
    "Get-RecipientPermission",
    "Get-ServicePrincipal",
    "Get-TransportConfig",
    "Invoke-MgGraphRequest",
    "New-ManagementRoleAssignment",
    "New-ManagementScope",
    "New-MgApplication",
    "New-MgServicePrincipal",
    "New-MgServicePrincipalAppRoleAssignment",
    "New-ServicePrincipal",
    "Set-CASMailbox",
    "Set-ManagementScope",
    "Update-MgApplication",
    // Not called, but each would be a change.
    "Remove-MailboxPermission",
    "Remove-ServicePrincipal",
    "Set-TransportConfig",
];

/// Which protocols have a listener.
fn listeners(provider: &str, protocols: &[&str]) -> String {
    let one = |(port, protocol): (usize, &&str)| {
        format!(
            "[[listener]]\nprotocol = \"{protocol}\"\nlisten = \"127.0.0.1:{}\"\nprovider = \"{provider}\"\n",
            2000 + port
        )
    };
    protocols.iter().enumerate().map(one).collect()
}

fn app(name: &str, keys: &str) -> String {
    format!("[app.{}]\n{keys}\n", quoted(name))
}

fn app_only(name: &str) -> String {
    let keys = "tenant = \"contoso.onmicrosoft.com\"\ngrant = \"client_credentials\"\n\
         client_secret = { env = \"NOT_SET\" }\n";
    app(name, &format!("client_id = \"{CLIENT_ID}\"\n{keys}"))
}

fn account(mailbox: &str, app: &str, person: Option<&str>) -> String {
    let person = person.map(|person| format!("signed_in_as = {}\n", quoted(person)));
    let (mailbox, app) = (quoted(mailbox), quoted(app));
    format!("[[account]]\nmailbox = {mailbox}\napp = {app}\n{}", person.unwrap_or_default())
}

/// As TOML writes it.
fn quoted(text: &str) -> String {
    let escape = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\U{:08X}", u32::from(c)),
        c => c.to_string(),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

fn config(text: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gatepost.toml");
    fs::write(&file, text).unwrap();
    let mut config = Config::load_without_secrets(&file).unwrap();
    config.file = "gate#>post.toml".into();
    config
}

fn made(text: &str) -> Made<String> {
    script(&config(text), None).unwrap()
}

fn mailboxes(expected: &[[&str; 3]]) -> Vec<[String; 3]> {
    expected.iter().map(|entry| entry.map(str::to_owned)).collect()
}

#[test]
fn app_only_with_a_pattern() {
    let text = [
        &listeners("microsoft365", &["imap", "smtp"]),
        &app_only("contoso"),
        &account("support@contoso.com", "contoso", None),
        &account("*@contoso.com", "contoso", None),
    ];
    let text = text.map(String::as_str).concat();
    let Made { made, left_out } = made(&text);
    assert!(left_out.is_empty());
    assert_eq!(script(&config(&text), None).unwrap().made, made, "another text the second time");
    let tables = Tables::of(&made);
    assert_eq!(tables.tenant, "contoso.onmicrosoft.com");
    assert_eq!(tables.cloud["Graph"].text(), "Global");
    let [app] = tables.apps.as_slice() else { panic!("{:?}", tables.apps) };
    assert_eq!(app["Title"].text(), "gatepost (contoso)");
    assert_eq!(app["ClientId"].text(), CLIENT_ID);
    assert_eq!(app["Credential"].text(), "client_secret");
    assert_eq!(app["Protocols"].texts(), ["imap", "smtp"]);
    assert_eq!(app["Roles"].texts(), ["IMAP.AccessAsApp", "SMTP.SendAsApp"]);
    assert_eq!(app["Scopes"].texts(), [""; 0]);
    let expected = [["contoso", "support@contoso.com", ""], ["contoso", "*@contoso.com", ""]];
    assert_eq!(tables.mailboxes, mailboxes(&expected));
}

#[test]
fn people_with_a_shared_mailbox() {
    let keys = "client_id = \"to-be-filled-in\"\ngrant = \"device_code\"";
    let text = [
        listeners("microsoft365", &["imap", "pop3", "smtp"]),
        app("people", keys),
        account("jane@contoso.com", "people", Some("Jane@contoso.com")),
        account("support@contoso.com", "people", Some("jane@contoso.com")),
    ];
    let tables = Tables::of(&made(&text.concat()).made);
    let [app] = tables.apps.as_slice() else { panic!("{:?}", tables.apps) };
    let scopes = ["IMAP.AccessAsUser.All", "POP.AccessAsUser.All", "SMTP.Send", "offline_access"];
    assert_eq!((app["Scopes"].texts(), app["Roles"].texts()), (scopes.to_vec(), Vec::new()));
    assert_eq!((app["ClientId"].text(), app["Grant"].text()), ("", "device_code"));
    assert_eq!((app["RedirectUri"].text(), tables.tenant.as_str()), ("http://localhost", ""));
    let expected =
        [["people", "jane@contoso.com", ""], ["people", "support@contoso.com", "jane@contoso.com"]];
    assert_eq!(tables.mailboxes, mailboxes(&expected));
}

/// An app gets no permission for all mailboxes, a person's sign-in no more than it asks for.
#[test]
fn sending_by_graph() {
    let by_graph = |account: String| account + "via = [\"smtp\", \"graph\"]\n";
    let people = "client_id = \"x\"\ngrant = \"authorization_code\"";
    let text = [
        listeners("microsoft365", &["smtp"]),
        app_only("robot"),
        app("people", people),
        app("sharing", people),
        by_graph(account("scan@contoso.com", "robot", None)),
        account("other@contoso.com", "robot", None),
        by_graph(account("jane@contoso.com", "people", None)),
        by_graph(account("sales@contoso.com", "sharing", Some("john@contoso.com"))),
    ];
    let script = made(&text.concat()).made;
    let tables = Tables::of(&script);
    let [robot, people, sharing] = tables.apps.as_slice() else { panic!("{:?}", tables.apps) };
    let roles = ["Application Mail.Send", "Application Mail.ReadWrite"];
    assert_eq!(robot["GraphRoles"].texts(), roles);
    assert_eq!(
        (robot["GraphScopes"].texts(), robot["Roles"].texts()),
        (vec![], vec!["SMTP.SendAsApp"])
    );
    assert_eq!(people["GraphScopes"].texts(), ["Mail.Send", "Mail.ReadWrite"]);
    assert_eq!(people["GraphRoles"].texts(), [""; 0]);
    let shared = ["Mail.Send", "Mail.ReadWrite", "Mail.Send.Shared", "Mail.ReadWrite.Shared"];
    assert_eq!(sharing["GraphScopes"].texts(), shared);
    assert!(script.contains("Mailbox = 'scan@contoso.com'; Person = ''; Graph = 'yes'"));
    assert!(script.contains("Mailbox = 'other@contoso.com'; Person = ''; Graph = ''"));
}

#[test]
fn clouds_and_machines() {
    let provider = "microsoft365-gcc-high";
    let machine = format!("provider = \"{provider}\"\ngrant = \"managed_identity\"");
    let people = format!(
        "provider = \"{provider}\"\ntenant = \"Contoso.US\"\nclient_id = \"{CLIENT_ID}\"\n\
         redirect_uri = \"https://gatepost.contoso.us/back\""
    );
    let text = [
        listeners(provider, &["pop3"]),
        app("vm", &machine),
        app("people", &people),
        account("scanner@contoso.us", "vm", None),
        account("jane@contoso.us", "people", None),
    ];
    let tables = Tables::of(&made(&text.concat()).made);
    assert_eq!(tables.cloud["Graph"].text(), "USGov");
    assert_eq!(tables.cloud["Exchange"].text(), "O365USGovGCCHigh");
    assert_eq!(tables.cloud["Portal"].text(), "https://entra.microsoft.us");
    assert_eq!(tables.tenant, "Contoso.US");
    let [vm, people] = tables.apps.as_slice() else { panic!("{:?}", tables.apps) };
    assert_eq!((vm["ClientId"].text(), vm["Grant"].text()), ("", "managed_identity"));
    assert_eq!(vm["Roles"].texts(), ["POP.AccessAsApp"]);
    assert_eq!(people["RedirectUri"].text(), "https://gatepost.contoso.us/back");
}

const HOSTILE: [&str; 12] = [
    "O'Brien@contoso.com",
    "$(calc)@contoso.com",
    "`$x`@contoso.com",
    "\"quoted\"@contoso.com",
    "#>@contoso.com",
    "<#@contoso.com",
    "\u{2018}\u{2019}\u{201A}\u{201B};calc;\u{2019}@contoso.com",
    "'@\u{201C}x\u{201D}@contoso.com",
    "');calc;('@contoso.com",
    "m\u{fc}ller\u{d2}@contoso.com",
    "\u{1F4EC}\u{202E}@contoso.com",
    "--%@contoso.com",
];

#[test]
fn hostile_names() {
    let name = "two\nlines'; calc #> \u{2019}";
    let mut text = listeners("microsoft365", &["imap"])
        + &app_only(name)
        + &app("people", "client_id = \"x\"");
    let mut expected = Vec::new();
    for hostile in HOSTILE {
        text += &account(hostile, name, None);
        expected.push([name, hostile, ""]);
    }
    text += &account("support@contoso.com", "people", Some(HOSTILE[6]));
    expected.push(["people", "support@contoso.com", HOSTILE[6]]);
    let script = made(&text).made;
    assert_eq!(Tables::of(&script).mailboxes, mailboxes(&expected));
    assert_eq!(Tables::of(&script).apps[0]["Title"].text(), format!("gatepost ({name})"));
    // The introduction is one comment, and only that.
    assert_eq!((script.matches("<#\n").count(), script.matches("#>\n").count()), (1, 1));
    let tree = parse(&script);
    let comment = of_kind(tree.root_node(), "comment")[0];
    assert!(powershell::text(comment, &script).ends_with("changes nothing.\n#>"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_name(
        mailbox in "[^\\s\\p{Cc}*]{1,20}",
        spiky in "['\"`$#<>(){};|&@\u{2018}-\u{201F}a]{1,12}",
    ) {
        prop_assume!(mailbox.to_lowercase() != spiky.to_lowercase());
        let text = listeners("microsoft365", &["smtp"])
            + &app_only(&spiky)
            + &account(&mailbox, &spiky, None)
            + &account(&spiky, &spiky, None);
        let tables = Tables::of(&made(&text).made);
        let expected = [[spiky.as_str(), &mailbox, ""], [spiky.as_str(), &spiky, ""]];
        prop_assert_eq!(tables.mailboxes, mailboxes(&expected));
    }
}

#[test]
fn what_has_no_script_says_so() {
    let google = app("google", "provider = \"gmail\"\nclient_id = \"x\"");
    let with_google = listeners("microsoft365", &["imap"])
        + &app_only("contoso")
        + &google
        + &account("jane@gmail.com", "google", None)
        + &account("support@contoso.com", "contoso", None);
    let Made { made, left_out } = made(&with_google);
    assert_eq!(Tables::of(&made).mailboxes, mailboxes(&[["contoso", "support@contoso.com", ""]]));
    let [reason] = left_out.as_slice() else { panic!("{left_out:?}") };
    assert!(reason.to_string().contains("graph_environment"), "{reason}");

    let error = |text: &str, app| script(&config(text), app).unwrap_err();
    let named = error(&with_google, Some("google")).to_string();
    assert!(
        named.contains("no graph_environment") && named.contains("[provider.gmail]"),
        "{named}"
    );
    assert!(matches!(error(&with_google, Some("x")), EntraError::NoApp { .. }));
    assert!(matches!(error("", None), EntraError::NoAccount));
    let deaf = app_only("contoso") + &account("a@contoso.com", "contoso", None);
    assert!(matches!(error(&deaf, None), EntraError::NoListener { .. }));
    let fabrikam = format!("tenant = \"fabrikam.com\"\nclient_id = \"{CLIENT_ID}\"");
    let two =
        with_google + &app("fabrikam", &fabrikam) + &account("b@fabrikam.com", "fabrikam", None);
    let many = error(&two, None).to_string();
    assert!(many.contains("contoso and fabrikam") && many.contains("--app contoso"), "{many}");
    assert_eq!(script(&config(&two), Some("fabrikam")).unwrap().left_out.len(), 0);
}

// What PowerShell would find only when it runs.

fn any_script() -> String {
    let text = listeners("microsoft365", &["imap"])
        + &app_only("contoso")
        + &account("support@contoso.com", "contoso", None);
    made(&text).made
}

#[test]
fn the_code_is_the_same_for_all() {
    let one = any_script();
    let other = listeners("microsoft365-china", &["smtp"])
        + &app("x", "provider = \"microsoft365-china\"\nclient_id = \"x\"")
        + &account("a@b.cn", "x", None);
    let code = |script: &str| script[script.find(CODE).unwrap()..].to_owned();
    assert_eq!(code(&one), code(&made(&other).made));
    // Of ids, it knows those of the two APIs.
    let ids = of_kind(parse(&one).root_node(), "verbatim_string_characters")
        .into_iter()
        .filter(|node| uuid::Uuid::try_parse(text(*node, &one).trim_matches('\'')).is_ok())
        .count();
    assert_eq!(ids, 3, "the client id and two APIs");
}

#[test]
fn every_command_is_known_and_every_function_called() {
    let script = any_script();
    let tree = parse(&script);
    let functions = functions(&tree, &script);
    let mut called = BTreeSet::new();
    for (name, node) in commands(&tree, &script) {
        let known = OF_POWERSHELL.contains(&name) || OF_MODULES.contains(&name);
        let line = node.start_position().row + 1;
        assert!(known != functions.contains_key(name), "line {line}: {name}");
        called.insert(name);
    }
    let idle: Vec<_> = functions.keys().filter(|name| !called.contains(**name)).collect();
    assert!(idle.is_empty(), "never called: {idle:?}");
    assert!(functions.len() > 25 && called.len() > 50, "{} {}", functions.len(), called.len());
}

/// An error of a module's function does not end the script by `$ErrorActionPreference`.
#[test]
fn an_error_of_a_module_is_never_passed_over() {
    let script = any_script();
    let tree = parse(&script);
    let mut checked = 0;
    for (name, node) in commands(&tree, &script) {
        let of_session = ["Get-MgContext", "Get-ConnectionInformation"].contains(&name);
        if OF_MODULES.contains(&name) && !of_session {
            let line = node.start_position().row + 1;
            assert!(
                text(node, &script).trim_end().ends_with("@Stop"),
                "line {line}: {}",
                text(node, &script)
            );
            checked += 1;
        }
    }
    assert!(checked > 30, "{checked}");
}

/// `-WhatIf` changes nothing: each change is in a block of `Set-Fact`, or asks by itself.
#[test]
fn every_change_asks_first() {
    let script = any_script();
    let tree = parse(&script);
    let commands = commands(&tree, &script);
    let functions = functions(&tree, &script);
    let mut changes = 0;
    for (name, node) in &commands {
        if OF_MODULES.contains(name) && !name.starts_with("Get-") {
            assert!(asks(*node, &script, &commands), "{}", text(*node, &script));
            changes += 1;
        }
    }
    assert!(changes > 10, "{changes}");
    assert!(text(functions["Set-Fact"], &script).contains("$Caller.ShouldProcess"));
}

fn asks(node: Node<'_>, script: &str, commands: &[(&str, Node<'_>)]) -> bool {
    let mut at = node;
    while let Some(parent) = at.parent() {
        at = parent;
        if at.kind() == "command" && text(at, script).starts_with("Set-Fact ") {
            return true;
        }
        if at.kind() == "function_statement" {
            let name = text(of_kind(at, "function_name")[0], script);
            let mut calls = commands.iter().filter(|(called, _)| *called == name).peekable();
            return text(at, script).contains("$Caller.ShouldProcess")
                || (calls.peek().is_some()
                    && calls.all(|(_, call)| asks(*call, script, commands)));
        }
    }
    false
}

/// `Set-StrictMode` ends a script that reads a variable which nobody has set.
#[test]
fn every_variable_is_set_somewhere() {
    let script = any_script();
    let tree = parse(&script);
    let name =
        |node: &Node<'_>| text(*node, &script).trim_matches(['$', '@', '{', '}']).to_lowercase();
    let of_powershell = ["_", "true", "false", "null", "pscmdlet", "whatifpreference"];
    let mut set: BTreeSet<String> = of_powershell.map(str::to_owned).into();
    let mut sets = |node: Node<'_>| set.extend(of_kind(node, "variable").iter().map(name));
    for node in of_kind(tree.root_node(), "assignment_expression") {
        sets(node.child(0).unwrap());
    }
    of_kind(tree.root_node(), "script_parameter").into_iter().for_each(&mut sets);
    for node in of_kind(tree.root_node(), "foreach_statement") {
        sets(of_kind(node, "variable")[0]);
    }
    let mut used = 0;
    for node in of_kind(tree.root_node(), "variable") {
        assert!(
            set.contains(&name(&node)),
            "line {}: {}",
            node.start_position().row + 1,
            name(&node)
        );
        used += 1;
    }
    assert!(used > 300, "{used}");
}

// The commands.

fn run(text: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gatepost.toml");
    fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
    command.current_dir(folder.path()).args(["--config", "gatepost.toml", "entra"]);
    command.args(arguments).output().unwrap()
}

fn words(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).unwrap()
}

#[test]
fn the_address_alone_is_on_standard_output() {
    let text = listeners("microsoft365", &["imap"])
        + &app_only("contoso")
        + &app("google", "provider = \"gmail\"\nclient_id = \"x\"")
        + &account("jane@gmail.com", "google", None)
        + &account("support@contoso.com", "contoso", None);
    let output = run(&text, &["consent-url"]);
    assert!(output.status.success());
    let expected = format!(
        "https://login.microsoftonline.com/contoso.onmicrosoft.com/v2.0/adminconsent?client_id={CLIENT_ID}\
         &redirect_uri=http%3A%2F%2Flocalhost&scope=https%3A%2F%2Fps.outlook.com%2F.default\n"
    );
    assert_eq!(words(&output.stdout), expected);
    let said = words(&output.stderr);
    assert!(said.contains("administrator") && said.contains("left out: app google"), "{said}");
    assert_eq!(run(&text, &["consent-url", "contoso"]).stdout, output.stdout);
    for (arguments, wanted) in
        [(["consent-url", "google"], "consent_url"), (["consent-url", "x"], "contoso")]
    {
        let output = run(&text, &arguments);
        assert_eq!(output.status.code(), Some(2));
        let said = words(&output.stderr);
        assert!(
            output.stdout.is_empty() && said.contains(wanted) && said.contains("\nhint: "),
            "{said}"
        );
    }
}

#[test]
fn the_script_alone_is_on_standard_output() {
    let text = listeners("microsoft365", &["imap"])
        + &app_only("contoso")
        + &account("support@contoso.com", "contoso", None);
    let output = run(&text, &["script"]);
    assert!(output.status.success(), "{}", words(&output.stderr));
    assert_eq!(run(&text, &["script", "--app", "contoso"]).stdout, output.stdout);
    let printed = words(&output.stdout);
    let expected = [["contoso", "support@contoso.com", ""]];
    assert_eq!(Tables::of(&printed).mailboxes, mailboxes(&expected));
    assert!(printed.ends_with("}\n") && printed.contains("\n    gatepost.toml\n"));
    assert!(words(&output.stderr).contains("-WhatIf"));
    assert_eq!(run(&text, &["script", "--app", "x"]).status.code(), Some(2));
}
