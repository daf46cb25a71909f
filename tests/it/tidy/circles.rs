//! Import cycles among the modules of the store: those beside `store.rs`, and those within each driver.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, assert_none, program};

/// Folders whose modules are compared, each as the path of its parent module. A module stands for everything it
/// contains. The parent counts as a module beside its children, so a child that uses an item of its parent makes a
/// cycle.
const FAMILIES: [&[&str]; 3] = [&["store"], &["store", "sqlite"], &["store", "postgres"]];

#[test]
fn store_modules_have_no_import_cycles() {
    let tree = Tree::of(program().iter().filter(|source| source.is_under("src/store")));
    assert!(tree.modules.len() > 80, "too few modules were read");
    let circles: Vec<String> = FAMILIES.iter().filter_map(|family| tree.circle(family)).collect();
    assert_none("store modules have no import cycles", &circles);
}

#[test]
fn an_import_cycle_is_found_and_reported() {
    let tree = |sources: &[(&str, &str)]| {
        let sources: Vec<Source> = sources.iter().map(|(path, text)| source(path, text)).collect();
        Tree::of(sources.iter())
    };
    let circle = |sources: &[(&str, &str)]| tree(sources).circle(&["store"]);
    let none: Option<String> = None;
    // A parent may use its children, and children each other one way. A re-exported item belongs to the child.
    let straight = [
        (
            "src/store.rs",
            "mod a;\nmod b;\npub use a::{A, Other};\nfn f(_: A) {}",
        ),
        ("src/store/a.rs", "pub struct A;"),
        (
            "src/store/b.rs",
            "use super::{A, a::Other};\nuse crate::order::Order;",
        ),
    ];
    assert_eq!(circle(&straight), none);
    let of_two = [
        ("src/store.rs", "mod a;\nmod b;"),
        ("src/store/a.rs", "use super::b::B;"),
        ("src/store/b.rs", "fn f() { crate::store::a::g() }"),
    ];
    let found = circle(&of_two).unwrap();
    assert!(found.contains("store/a.rs uses store::b::B") && found.contains("store/b.rs uses store::a::g"));
    // Through a re-export of the parent, and from a folder below.
    let hidden = [
        ("src/store.rs", "mod a;\nmod b;\npub use b::B;"),
        ("src/store/a/inner.rs", "use crate::store::B;"),
        ("src/store/a.rs", "mod inner;"),
        ("src/store/b.rs", "use super::a;"),
    ];
    assert!(circle(&hidden).is_some());
    // An item of the parent itself.
    let upwards = [
        ("src/store.rs", "mod a;\nuse a::A;\npub const MOST: usize = 1;"),
        ("src/store/a.rs", "use super::MOST;"),
    ];
    assert!(circle(&upwards).is_some());
    // Unit tests may import anything.
    let tests = [
        ("src/store.rs", "mod a;\nuse a::A;"),
        (
            "src/store/a.rs",
            "#[cfg(test)]\nmod tests {\n    use super::super::f;\n}\n",
        ),
        ("src/store/a/tests.rs", "use super::super::f;"),
    ];
    assert_eq!(circle(&tests), none);
}

fn source(path: &str, text: &str) -> Source {
    Source {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

/// The names of a path: `["store", "a", "A"]`.
type Path = Vec<String>;

/// The modules of the store and the paths they use.
pub(super) struct Tree {
    modules: BTreeMap<Path, Module>,
}

struct Module {
    file: String,
    /// The paths that the module's code uses, from the root of the crate.
    used: Vec<Path>,
}

impl Tree {
    pub fn of<'s>(sources: impl Iterator<Item = &'s Source>) -> Tree {
        let shipped: Vec<&Source> = sources.filter(|source| !is_of_tests(&source.path)).collect();
        let paths: BTreeSet<Path> = shipped.iter().map(|source| module_path(&source.path)).collect();
        let modules = shipped.iter().map(|source| {
            let path = module_path(&source.path);
            let used = used_paths(&source.code());
            let used = used
                .iter()
                .filter_map(|used| absolute(used, &path, &paths))
                .collect();
            let file = source.path.trim_start_matches("src/").to_owned();
            (path, Module { file, used })
        });
        Tree {
            modules: modules.collect(),
        }
    }

    /// The other files whose items a file uses, each from `src/`.
    pub fn files_used_by(&self, file: &str) -> BTreeSet<String> {
        let module = self.modules.values().find(|module| module.file == file);
        let used = &module.expect("the file belongs to the store").used;
        let owners = used
            .iter()
            .filter_map(|used| self.modules.get(&self.owner(used, 4)));
        let files = owners.map(|owner| owner.file.clone());
        files.filter(|used| used != file).collect()
    }

    /// The module that defines an item, found through re-exporting modules.
    fn owner(&self, item: &Path, hops: usize) -> Path {
        let mut length = 1;
        while length < item.len() && self.modules.contains_key(&item[..=length]) {
            length += 1;
        }
        let module = item[..length].to_vec();
        let passed_on = item.get(length).and_then(|name| {
            let used = &self.modules.get(&module)?.used;
            used.iter()
                .find(|used| used.last() == Some(name) && *used != item)
        });
        match passed_on {
            Some(origin) if hops > 0 => self.owner(origin, hops - 1),
            _ => module,
        }
    }

    /// The dependencies between the modules of a family, each with the uses behind it.
    fn arrows(&self, family: &[&str]) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut arrows: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (path, module) in &self.modules {
            for used in &module.used {
                let owner = self.owner(used, 4);
                let (Some(from), Some(to)) = (member(path, family), member(&owner, family)) else {
                    continue;
                };
                if from != to {
                    let use_of = format!("{} uses {}", module.file, used.join("::"));
                    arrows.entry(from).or_default().entry(to).or_insert(use_of);
                }
            }
        }
        arrows
    }

    /// A shortest cycle of the family, one use per line.
    fn circle(&self, family: &[&str]) -> Option<String> {
        let arrows = self.arrows(family);
        let circles = arrows.keys().filter_map(|start| way_back(start, &arrows));
        let shortest = circles.min_by_key(Vec::len)?;
        let uses = shortest.windows(2).map(|step| arrows[&step[0]][&step[1]].clone());
        Some(format!("a cycle:\n  {}", uses.collect::<Vec<_>>().join("\n  ")))
    }
}

/// The modules on the shortest way from a module back to itself.
fn way_back(start: &String, arrows: &BTreeMap<String, BTreeMap<String, String>>) -> Option<Vec<String>> {
    let mut ways = vec![vec![start.clone()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let last = way.last().expect("a way has a first module");
            for next in arrows.get(last).into_iter().flat_map(BTreeMap::keys) {
                let mut way = way.clone();
                way.push(next.clone());
                if next == start {
                    return Some(way);
                }
                if seen.insert(next.clone()) {
                    longer.push(way);
                }
            }
        }
        ways = longer;
    }
    None
}

/// The module of the family that a path belongs to.
fn member(path: &[String], family: &[&str]) -> Option<String> {
    let is_inside = path.len() >= family.len() && path.iter().zip(family).all(|(name, part)| name == part);
    let name = path.get(family.len()).map_or("the parent", String::as_str);
    is_inside.then(|| name.to_owned())
}

fn is_of_tests(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// `src/store/claim/refused.rs` is the module `store::claim::refused`.
fn module_path(file: &str) -> Path {
    let inside = file.trim_start_matches("src/").trim_end_matches(".rs");
    inside.split('/').map(str::to_owned).collect()
}

/// The path from the root of the crate, if it leads into the store.
fn absolute(used: &Path, module: &Path, modules: &BTreeSet<Path>) -> Option<Path> {
    let first = used.first()?.as_str();
    let child = || module.iter().chain([&used[0]]).cloned().collect::<Path>();
    let (mut base, rest): (Path, &[String]) = match first {
        "crate" => (Vec::new(), &used[1..]),
        "self" => (module.clone(), &used[1..]),
        "super" => {
            let ups = used.iter().take_while(|name| *name == "super").count();
            (module[..module.len().checked_sub(ups)?].to_vec(), &used[ups..])
        }
        _ if modules.contains(&child()) => (module.clone(), &used[..]),
        _ => return None,
    };
    base.extend(rest.iter().filter(|name| *name != "self").cloned());
    (base.first().map(String::as_str) == Some("store")).then_some(base)
}

/// The paths of `use` declarations, and those written out from `super` or `crate`.
fn used_paths(code: &str) -> Vec<Path> {
    let mut used = Vec::new();
    let mut rest = String::new();
    let mut declarations = code.split("use ");
    let mut before = declarations.next().unwrap_or_default().to_owned();
    for part in declarations {
        rest.push_str(&before);
        let is_declaration = before.is_empty() || before.ends_with(['\n', ' ', ')']);
        match part.split_once(';') {
            Some((tree, after)) if is_declaration => {
                used.extend(in_tree(&[], tree));
                after.clone_into(&mut before);
            }
            _ => part.clone_into(&mut before),
        }
    }
    rest.push_str(&before);
    for root in ["super::", "crate::"] {
        for (at, _) in rest.match_indices(root) {
            // The first of several.
            if !rest[..at].ends_with("::") {
                used.push(names_at(&rest[at..]));
            }
        }
    }
    used
}

/// The paths of a tree: `a::{b, c::{d, e as f}}`.
fn in_tree(before: &[String], tree: &str) -> Vec<Path> {
    let tree = tree.trim();
    let with = |names: Path| before.iter().cloned().chain(names).collect::<Path>();
    let Some((head, group)) = tree.split_once('{') else {
        return if tree.is_empty() {
            Vec::new()
        } else {
            vec![with(names_at(tree))]
        };
    };
    let before = with(names_at(head));
    let group = group.trim_end().strip_suffix('}').unwrap_or(group);
    let mut depth = 0_i32;
    let branches = group.split(|character| {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        character == ',' && depth == 0
    });
    branches.flat_map(|branch| in_tree(&before, branch)).collect()
}

/// The names of the path at the beginning of a text.
fn names_at(text: &str) -> Path {
    let is_of_path = |character: &char| character.is_alphanumeric() || matches!(character, '_' | ':');
    let path: String = text.chars().take_while(is_of_path).collect();
    path.split("::")
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}
