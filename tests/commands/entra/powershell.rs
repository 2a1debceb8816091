//! A script as a tree, by a grammar of PowerShell, and the values in it.
//!
//! Invariant: what the grammar can't parse, and a table that is more than literals, fail the test.

use std::collections::BTreeMap;

use tree_sitter::{Node, Parser, Tree};

/// What the tables of a script say.
pub(super) struct Tables {
    pub(super) cloud: BTreeMap<String, Value>,
    pub(super) tenant: String,
    pub(super) apps: Vec<BTreeMap<String, Value>>,
    pub(super) mailboxes: Vec<[String; 3]>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    List(Vec<Self>),
    Table(BTreeMap<String, Self>),
}

impl Value {
    pub(super) fn text(&self) -> &str {
        let Self::Text(text) = self else { panic!("{self:?} is no text") };
        text
    }

    pub(super) fn list(&self) -> &[Self] {
        let Self::List(list) = self else { panic!("{self:?} is no list") };
        list
    }

    pub(super) fn table(&self) -> &BTreeMap<String, Self> {
        let Self::Table(table) = self else { panic!("{self:?} is no table") };
        table
    }

    pub(super) fn texts(&self) -> Vec<&str> {
        self.list().iter().map(Self::text).collect()
    }
}

impl Tables {
    /// Also checks the script's form.
    pub(super) fn of(script: &str) -> Self {
        let tree = parse(script);
        assert!(script.chars().all(|c| c == '\n' || c == ' ' || c.is_ascii_graphic()));
        let assigned = |name: &str| value(assigned(&tree, script, name), script);
        let text = |entry: &Value, key: &str| entry.table()[key].text().to_owned();
        let mailbox = |entry: &Value| ["App", "Mailbox", "Person"].map(|key| text(entry, key));
        Self {
            cloud: assigned("$Cloud").table().clone(),
            tenant: assigned("$Tenant").text().to_owned(),
            apps: assigned("$Apps").list().iter().map(|app| app.table().clone()).collect(),
            mailboxes: assigned("$Mailboxes").list().iter().map(mailbox).collect(),
        }
    }
}

/// Fails on what is no PowerShell.
pub(super) fn parse(script: &str) -> Tree {
    let mut parser = Parser::new();
    parser.set_language(&tree_sitter_powershell::LANGUAGE.into()).unwrap();
    let tree = parser.parse(script, None).unwrap();
    for node in all(tree.root_node()) {
        let bad = node.is_error() || node.is_missing();
        assert!(!bad, "line {}: {node}\n{script}", node.start_position().row + 1);
    }
    tree
}

/// A node and all that is in it.
fn all(node: Node<'_>) -> Vec<Node<'_>> {
    let mut nodes = vec![node];
    let mut next = 0;
    while next < nodes.len() {
        let node = nodes[next];
        nodes.extend((0..node.child_count()).filter_map(|at| node.child(at)));
        next += 1;
    }
    nodes
}

pub(super) fn of_kind<'a>(node: Node<'a>, kind: &str) -> Vec<Node<'a>> {
    all(node).into_iter().filter(|node| node.kind() == kind).collect()
}

pub(super) fn text<'a>(node: Node<'_>, script: &'a str) -> &'a str {
    &script[node.byte_range()]
}

/// What is assigned to a variable, the first time.
fn assigned<'a>(tree: &'a Tree, script: &str, variable: &str) -> Node<'a> {
    let assignments = of_kind(tree.root_node(), "assignment_expression");
    let mut assignments =
        assignments.into_iter().filter(|node| text(node.child(0).unwrap(), script) == variable);
    assignments.next().unwrap().child(2).unwrap()
}

/// The value of an expression of literals. Fails on all else: nothing in a table may run.
fn value(node: Node<'_>, script: &str) -> Value {
    let mut cursor = node.walk();
    let children: Vec<_> = node.named_children(&mut cursor).collect();
    match (node.kind(), children.as_slice()) {
        ("verbatim_string_characters", []) => {
            let literal = text(node, script);
            Value::Text(literal[1..literal.len() - 1].replace("''", "'"))
        }
        ("array_expression", []) => Value::List(Vec::new()),
        ("array_expression", [statements]) => {
            let mut cursor = statements.walk();
            let items: Vec<_> = statements.named_children(&mut cursor).collect();
            // Elements are statements of their own, or stand in one with commas.
            let elements = match items.as_slice() {
                [one] => elements(*one),
                items => items.to_vec(),
            };
            Value::List(elements.into_iter().map(|node| value(node, script)).collect())
        }
        ("hash_literal_expression", [body]) => {
            let entry = |entry: Node<'_>| {
                let key = text(entry.named_child(0).unwrap(), script).to_owned();
                (key, value(entry.named_child(1).unwrap(), script))
            };
            Value::Table(of_kind(*body, "hash_entry").into_iter().map(entry).collect())
        }
        ("additive_expression", [..]) if node.child_count() > 1 => {
            Value::Text(String::from_utf16(&units(node, script)).unwrap())
        }
        (kind, [one]) => {
            let harmless = kind.ends_with("_expression")
                || ["pipeline", "pipeline_chain", "string_literal"].contains(&kind);
            assert!(harmless && kind != "sub_expression", "{kind}: {}", text(node, script));
            value(*one, script)
        }
        (kind, _) => panic!("{kind}: {}", text(node, script)),
    }
}

/// The elements of `'a', 'b'`.
fn elements(node: Node<'_>) -> Vec<Node<'_>> {
    let mut node = node;
    while node.named_child_count() == 1 && node.kind() != "array_literal_expression" {
        node = node.named_child(0).unwrap();
    }
    let mut cursor = node.walk();
    match node.kind() {
        "array_literal_expression" => node.named_children(&mut cursor).collect(),
        _ => vec![node],
    }
}

/// The UTF-16 units of a sum of strings and characters.
fn units(node: Node<'_>, script: &str) -> Vec<u16> {
    let mut cursor = node.walk();
    if node.kind() == "cast_expression" {
        let number = text(node, script).strip_prefix("[char]0x").unwrap();
        return vec![u16::from_str_radix(number, 16).unwrap()];
    }
    if node.kind() == "verbatim_string_characters" {
        return value(node, script).text().encode_utf16().collect();
    }
    let harmless = ["string_literal", "expression_with_unary_operator"].contains(&node.kind());
    assert!(harmless || node.kind().ends_with("_expression"), "{node}");
    node.named_children(&mut cursor).flat_map(|child| units(child, script)).collect()
}

/// The commands that are called, by their names.
pub(super) fn commands<'a>(tree: &'a Tree, script: &'a str) -> Vec<(&'a str, Node<'a>)> {
    let commands = of_kind(tree.root_node(), "command").into_iter();
    let named = commands.filter_map(|node| Some((node.child_by_field_name("command_name")?, node)));
    // `& $Look` runs a block, which is looked at where it stands.
    let named = named.map(|(name, node)| (text(name, script), node));
    named.filter(|(name, _)| !name.starts_with('$')).collect()
}

pub(super) fn functions<'a>(tree: &'a Tree, script: &'a str) -> BTreeMap<&'a str, Node<'a>> {
    let functions = of_kind(tree.root_node(), "function_statement").into_iter();
    functions.map(|node| (text(of_kind(node, "function_name")[0], script), node)).collect()
}
