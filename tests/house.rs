//! The house keeps its plan: which room may import which, as the table in CONTRIBUTING.md says, and no two files import each
//! other, directly or in a circle. Read from the code itself.
//!
//! A module that re-exports (`pub use`) what a file below it has is only a door and no import. Tests are no part of the
//! house: they may look into every room.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens as _;

/// Path of a module below the crate: `["session", "core", "posts"]`.
type Module = Vec<String>;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn module_of(file: &Path, source: &Path) -> Module {
    let relative = file.strip_prefix(source).unwrap().with_extension("");
    let mut module: Module = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    module.pop_if(|last| last == "mod" || last == "lib" || last == "main");
    module
}

/// What one file imports, as paths from the crate's root.
struct Imports {
    /// The module that is being read: of the file, or one within it.
    within: Module,
    paths: BTreeSet<Vec<String>>,
}

impl Imports {
    fn note(&mut self, path: &[String]) {
        let mut base = match path.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.within.clone(),
            _ => return,
        };
        for part in path {
            match part.as_str() {
                "crate" | "self" => {}
                "super" => drop(base.pop()),
                name => base.push(name.to_owned()),
            }
        }
        self.paths.insert(base);
    }

    fn note_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.note_tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.note(&with(&name.ident)),
            syn::UseTree::Rename(rename) => self.note(&with(&rename.ident)),
            syn::UseTree::Glob(_) => self.note(before),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_tree(before, tree)),
        }
    }
}

fn is_of_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

impl Imports {
    fn note_items(&mut self, items: &[syn::Item]) {
        for item in items {
            match item {
                syn::Item::Use(item) if matches!(item.vis, syn::Visibility::Public(_)) => {
                    // Of a file below: a door. Of another room: an import like any other.
                    let mut through = Imports { within: self.within.clone(), paths: BTreeSet::new() };
                    through.note_tree(&[], &item.tree);
                    let within = &self.within;
                    self.paths.extend(through.paths.into_iter().filter(|path| !path.starts_with(within)));
                }
                syn::Item::Use(item) => self.note_tree(&[], &item.tree),
                syn::Item::Mod(item) if is_of_tests(&item.attrs) => {}
                syn::Item::Fn(item) if is_of_tests(&item.attrs) => {}
                syn::Item::Impl(item) if is_of_tests(&item.attrs) => {}
                syn::Item::Mod(syn::ItemMod { ident, content: Some((_, items)), .. }) => {
                    self.within.push(ident.to_string());
                    self.note_items(items);
                    self.within.pop();
                }
                item => self.note_tokens(item.to_token_stream()),
            }
        }
    }

    /// Paths within code, also in what a macro is given.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            // `pub(in crate::store)` imports nothing.
            let is_visibility = matches!(&token, TokenTree::Group(_)) && path == ["pub"];
            match token {
                _ if is_visibility => path.clear(),
                TokenTree::Ident(name) if path.is_empty() || colons == 2 => path.push(name.to_string()),
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                other => {
                    self.note_in_code(&std::mem::take(&mut path));
                    match other {
                        TokenTree::Ident(name) => path.push(name.to_string()),
                        TokenTree::Group(group) => self.note_tokens(group.stream()),
                        _ => {}
                    }
                }
            }
            colons = 0;
        }
        self.note_in_code(&path);
    }

    /// A word alone is no path.
    fn note_in_code(&mut self, path: &[String]) {
        if path.len() > 1 {
            self.note(path);
        }
    }
}

/// Which files each file imports.
fn house() -> BTreeMap<Module, BTreeSet<Module>> {
    let source = root().join("src");
    let mut found = Vec::new();
    files(&source, &mut found);
    found.retain(|file| *file != source.join("main.rs") && !module_of(file, &source).contains(&"tests".to_owned()));
    let modules: BTreeSet<Module> = found.iter().map(|file| module_of(file, &source)).collect();
    let read = |file: &PathBuf| {
        let module = module_of(file, &source);
        let parsed = syn::parse_file(&fs::read_to_string(file).unwrap()).unwrap();
        let mut imports = Imports { within: module.clone(), paths: BTreeSet::new() };
        imports.note_items(&parsed.items);
        let owner = |path: Vec<String>| (1..=path.len()).rev().find_map(|upto| modules.get(&path[..upto]).cloned());
        let imported = imports.paths.into_iter().filter_map(owner).filter(|imported| *imported != module).collect();
        (module, imported)
    };
    found.iter().map(read).collect()
}

/// The table in CONTRIBUTING.md: room → the rooms that it may import.
fn plan() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let rows = text.lines().skip_while(|line| !line.starts_with("| room |")).skip(2);
    let words = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    rows.take_while(|line| line.starts_with('|'))
        .flat_map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
            let may_import: BTreeSet<String> = words(cells[2]).into_iter().collect();
            words(cells[0]).into_iter().map(move |room| (room, may_import.clone())).collect::<Vec<_>>()
        })
        .collect()
}

/// `cluster/lease` where the plan has a row for that, else `cluster`.
fn room<'a>(module: &Module, plan: &'a BTreeMap<String, BTreeSet<String>>) -> Option<&'a str> {
    let longest = (1..=module.len()).rev().map(|upto| module[..upto].join("/"));
    longest.filter_map(|name| plan.get_key_value(&name)).map(|(name, _)| name.as_str()).next()
}

#[test]
fn rooms_import_only_what_the_plan_says() {
    let (house, plan) = (house(), plan());
    assert!(plan.len() > 10, "the table was not found");
    let mut faults = Vec::new();
    for (module, imports) in house.iter().filter(|(module, _)| !module.is_empty()) {
        let Some(mine) = room(module, &plan) else {
            faults.push(format!("src/{} has no room in the table", module.join("/")));
            continue;
        };
        for imported in imports.iter().filter(|imported| !imported.is_empty()) {
            let theirs = room(imported, &plan).unwrap_or_default();
            if theirs != mine && !plan[mine].contains(theirs) {
                faults.push(format!("{} imports {}", module.join("/"), imported.join("/")));
            }
        }
    }
    assert!(faults.is_empty(), "against the table in CONTRIBUTING.md:\n{}", faults.join("\n"));
    let unused: Vec<&String> =
        plan.keys().filter(|name| !house.keys().any(|module| room(module, &plan) == Some(name))).collect();
    assert!(unused.is_empty(), "rows without a room: {unused:?}");
}

/// The shortest way from one file back to itself, if there is one.
fn circle(start: &Module, house: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<Module>> {
    let mut before: BTreeMap<&Module, &Module> = BTreeMap::new();
    let mut next = std::collections::VecDeque::from([start]);
    while let Some(at) = next.pop_front() {
        for to in &house[at] {
            if to == start {
                let mut way = vec![start.clone(), at.clone()];
                let mut at = at;
                while let Some(from) = before.get(at) {
                    way.push((*from).clone());
                    at = from;
                }
                way.reverse();
                return Some(way);
            }
            if to != start && !before.contains_key(to) {
                before.insert(to, at);
                next.push_back(to);
            }
        }
    }
    None
}

#[test]
fn no_file_imports_itself_by_way_of_others() {
    let house = house();
    let circles: Vec<String> = house
        .keys()
        .filter_map(|module| circle(module, &house))
        .map(|way| way.iter().map(|module| module.join("/")).collect::<Vec<_>>().join(" -> "))
        .collect();
    assert!(circles.is_empty(), "{} files are in a circle; the shortest ways:\n{}", circles.len(), circles.join("\n"));
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let source = root().join("src");
    let mut found = Vec::new();
    files(&source, &mut found);
    let long: Vec<String> = found
        .iter()
        .map(|file| (file, fs::read_to_string(file).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > 500)
        .map(|(file, lines)| format!("{} {lines}", file.display()))
        .collect();
    assert!(long.is_empty(), "split by role:\n{}", long.join("\n"));
}

/// Tests that docs/guarantees.md names are there, and those that it marks run over both transports.
#[test]
fn the_guarantees_name_their_tests() {
    let folder = root().join("tests/integration");
    let guarantees = fs::read_to_string(root().join("docs/guarantees.md")).unwrap();
    let mut wrong = Vec::new();
    let mut named = 0;
    let mut parts = guarantees.split('`').skip(1).peekable();
    while let (Some(quoted), after) = (parts.next(), parts.next().unwrap_or_default()) {
        let Some((file, test)) = quoted.split_once("::") else { continue };
        let Ok(code) = fs::read_to_string(folder.join(format!("{file}.rs"))) else { continue };
        if test.is_empty() {
            continue;
        }
        named += 1;
        let twice = code.split("over_both_transports! {").skip(1).any(|listed| {
            let (listed, _) = listed.split_once('}').unwrap_or((listed, ""));
            listed.split_whitespace().any(|name| name == test)
        });
        if !code.contains(&format!("fn {test}(")) || after.starts_with('\u{b2}') != twice {
            wrong.push(quoted);
        }
    }
    assert!(named > 100, "{named} tests were found");
    assert!(wrong.is_empty(), "not there, or not marked as they run: {wrong:#?}");
}

/// A row that is there from the start cannot be forgotten: every reason in the code is declared beside the metrics.
#[test]
fn every_reason_that_is_counted_has_a_row() {
    let source = root().join("src");
    let declared = fs::read_to_string(source.join("metrics.rs")).unwrap();
    let mut found = Vec::new();
    files(&source, &mut found);
    let (mut counted, mut missing) = (0, Vec::new());
    for file in found.iter().filter(|file| !file.starts_with(source.join("metrics"))) {
        let code = fs::read_to_string(file).unwrap();
        for how in ["with_label_values(&[\"", "count_dropped(\""] {
            for reason in code.split(how).skip(1).filter_map(|rest| rest.split_once('"')) {
                counted += 1;
                if !declared.contains(&format!("\"{}\"", reason.0)) && !file.ends_with("figures.rs") {
                    missing.push(format!("{}: {}", file.display(), reason.0));
                }
            }
        }
    }
    assert!(counted > 20, "{counted} were found");
    assert!(missing.is_empty(), "to be declared in src/metrics.rs:\n{}", missing.join("\n"));
}
