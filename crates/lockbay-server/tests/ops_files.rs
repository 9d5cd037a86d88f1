//! The files in `ops/` by which servers are run say what this binary understands: settings, flags,
//! paths and times are those of the code.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockbay::Config;
use lockbay::config::SETTINGS;
use saphyr::{LoadableYamlNode, YamlOwned};
use support::{Server, lockbay};

/// What the end of a server takes beyond shutdown_grace; docs/operations.md says so.
const END_TAKES: Duration = Duration::from_millis(3_500);

fn ops() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops")
}

fn file(name: &str) -> String {
    std::fs::read_to_string(ops().join(name)).unwrap()
}

/// Every document of Kubernetes, by its kind.
fn manifests() -> BTreeMap<String, YamlOwned> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(ops().join("kubernetes")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let documents = YamlOwned::load_from_str(&text);
        for document in documents.unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
            let kind = document["kind"].as_str().unwrap().to_owned();
            assert!(found.insert(kind, document).is_none(), "{}", path.display());
        }
    }
    found
}

fn list(node: &YamlOwned) -> Vec<String> {
    let items = node.as_sequence().unwrap().iter();
    items.map(|item| item.as_str().unwrap().to_owned()).collect()
}

fn map(node: &YamlOwned) -> BTreeMap<String, String> {
    let pairs = node.as_mapping().unwrap().iter();
    pairs
        .map(|(name, value)| (name.as_str().unwrap().into(), value.as_str().unwrap().into()))
        .collect()
}

fn seconds(node: &YamlOwned) -> Duration {
    Duration::from_secs(u64::try_from(node.as_integer().unwrap()).unwrap())
}

/// The words of a text that begin as settings do.
fn variables(text: &str) -> Vec<&str> {
    let is_of_name =
        |letter: char| letter.is_ascii_uppercase() || letter == '_' || letter.is_ascii_digit();
    let words = text.split(|letter| !is_of_name(letter));
    words.filter(|word| word.starts_with("LOCKBAY_") && word.len() > "LOCKBAY_".len()).collect()
}

fn help_of_clients() -> String {
    let output = lockbay().args(["health", "--help"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_variable_that_the_files_name_is_a_setting_or_one_of_a_client() {
    let help = help_of_clients();
    let mut seen = 0;
    let mut names = vec!["lockbay.service".to_owned(), "Dockerfile".into(), "README.md".into()];
    for entry in std::fs::read_dir(ops().join("kubernetes")).unwrap() {
        names.push(format!("kubernetes/{}", entry.unwrap().file_name().to_str().unwrap()));
    }
    for name in names {
        let text = file(&name);
        for variable in variables(&text) {
            seen += 1;
            let is_setting = SETTINGS.iter().any(|setting| setting.env == variable);
            let is_clients = help.contains(&format!("[env: {variable}]"));
            assert!(is_setting || is_clients, "{name} names {variable}, and there is none");
        }
    }
    assert!(seen > 15, "only {seen} variables were found");
}

#[test]
fn the_settings_of_the_manifests_are_taken_together() {
    let manifests = manifests();
    let mut given = map(&manifests["ConfigMap"]["data"]);
    given.extend(map(&manifests["Secret"]["stringData"]));
    let mut toml = String::new();
    for (name, value) in &given {
        if let Some(setting) = SETTINGS.iter().find(|setting| setting.env == name) {
            toml.push_str(&format!("{} = {value:?}\n", setting.name));
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lockbay.toml");
    std::fs::write(&path, &toml).unwrap();
    let config = Config::load(Some(&path), &BTreeMap::new()).unwrap();
    assert!(config.store.starts_with("rediss://"), "{toml}");
    let pod = &manifests["Deployment"]["spec"]["template"]["spec"];
    let stop = &pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"];
    let needed = seconds(stop) + config.shutdown_grace.0 + END_TAKES;
    let given = seconds(&pod["terminationGracePeriodSeconds"]);
    assert!(given > needed, "the pod is given {given:?} and needs {needed:?}");
}

#[test]
fn the_commands_of_the_files_are_understood() {
    let unit = file("lockbay.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let mut words = start.split(' ').map(str::to_owned);
    assert_eq!(words.next().as_deref(), Some("/usr/local/bin/lockbay"));
    let manifests = manifests();
    let container = &manifests["Deployment"]["spec"]["template"]["spec"]["containers"][0];
    let image = file("Dockerfile");
    let in_brackets = |line: &str| -> Vec<String> {
        let (_, list) = line.split_once('[').unwrap();
        let words = list.trim_end_matches(']').split(',');
        words.map(|word| word.trim().trim_matches('"').to_owned()).collect()
    };
    let check = image.lines().find(|line| line.starts_with("HEALTHCHECK")).unwrap();
    let command = image.lines().find(|line| line.starts_with("CMD")).unwrap();
    for args in [
        words.collect::<Vec<_>>(),
        list(&container["args"]),
        in_brackets(check)[1..].to_vec(),
        in_brackets(command),
    ] {
        let output = lockbay().args(&args).arg("--help").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !args.is_empty(), "{args:?}: {said}");
    }
}

#[test]
fn probes_ask_for_paths_that_answer_without_credentials() {
    let server = Server::start(&["--store", "memory:"]);
    let manifests = manifests();
    let container = &manifests["Deployment"]["spec"]["template"]["spec"]["containers"][0];
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let http = &container[probe]["httpGet"];
        server.get(http["path"].as_str().unwrap()).ok();
        assert_eq!(http["scheme"].as_str(), Some("HTTPS"), "{probe}");
        assert_eq!(http["port"].as_str(), container["ports"][0]["name"].as_str(), "{probe}");
    }
    let live = container["livenessProbe"]["httpGet"]["path"].as_str();
    assert_eq!(live, Some("/health/live"), "a restart does not mend a store");
}

#[test]
fn the_manifests_speak_of_the_same_pods_and_keep_most_of_them() {
    let manifests = manifests();
    let name = "app.kubernetes.io/name";
    let deployment = &manifests["Deployment"]["spec"];
    let labels = &deployment["template"]["metadata"]["labels"][name];
    let label = labels.as_str().unwrap();
    for selector in [
        &deployment["selector"]["matchLabels"],
        &manifests["Service"]["spec"]["selector"],
        &manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        &manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ] {
        assert_eq!(selector[name].as_str(), Some(label));
    }
    let replicas = deployment["replicas"].as_integer().unwrap();
    let kept = manifests["PodDisruptionBudget"]["spec"]["minAvailable"].as_integer().unwrap();
    assert!(replicas >= 3 && kept == replicas - 1, "{kept} of {replicas}");
    let listed = list(&manifests["Kustomization"]["resources"]);
    assert_eq!(listed.len() + 1, std::fs::read_dir(ops().join("kubernetes")).unwrap().count());
    assert!(listed.iter().all(|name| ops().join("kubernetes").join(name).exists()));
    let security = &deployment["template"]["spec"]["containers"][0]["securityContext"];
    assert_eq!(security["readOnlyRootFilesystem"].as_bool(), Some(true));
    assert_eq!(security["allowPrivilegeEscalation"].as_bool(), Some(false));
}

#[test]
fn the_unit_and_the_image_end_in_order_and_run_without_rights() {
    let unit = file("lockbay.service");
    let stop = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    let stop = Duration::from_secs(stop.parse().unwrap());
    assert!(stop > Config::default().shutdown_grace.0 + END_TAKES);
    for line in
        ["DynamicUser=yes", "NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet="]
    {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
    let image = file("Dockerfile");
    let user = image.lines().position(|line| line.starts_with("USER ")).unwrap();
    let entry = image.lines().position(|line| line.starts_with("ENTRYPOINT")).unwrap();
    assert!(user < entry && !image.contains("USER root"));
    let pinned = concat!("FROM rust:", env!("CARGO_PKG_RUST_VERSION"));
    assert!(image.contains(pinned), "the image is built with the Rust that the project asks for");
}
