//! Settings as Python gives them.
//!
//! The library merges and checks them; this only finds them, in keywords and in an application's
//! own configuration, and writes them as the environment would.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lockbay::Config;
use lockbay::config::SETTINGS;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::invalid;

/// Settings that were given, by name, and in which file.
#[derive(Clone, Default)]
pub(crate) struct Given {
    pub(crate) settings: BTreeMap<&'static str, String>,
    /// Those that count where neither the environment nor anything else says otherwise.
    pub(crate) defaults: BTreeMap<&'static str, String>,
    pub(crate) file: Option<PathBuf>,
}

impl Given {
    /// Takes settings by name.
    pub(crate) fn take(&mut self, settings: &Bound<'_, PyDict>) -> PyResult<()> {
        for (name, value) in settings {
            let name: String = name.extract()?;
            let known = SETTINGS.iter().find(|setting| setting.name == name);
            let known = known.ok_or_else(|| invalid(settings.py(), unknown_setting(&name)))?;
            if !value.is_none() {
                self.settings.insert(known.name, setting_text(&value)?);
            }
        }
        Ok(())
    }

    pub(crate) fn config(&self) -> lockbay::Result<Config> {
        let mut settings = self.settings.clone();
        for setting in SETTINGS {
            let is_set = |name: &str| std::env::var_os(name).is_some();
            if self.file.is_none()
                && !is_set(setting.env)
                && !is_set(&format!("{}_FILE", setting.env))
                && let Some(value) = self.defaults.get(setting.name)
            {
                settings.entry(setting.name).or_insert_with(|| value.clone());
            }
        }
        Config::load(self.file.as_deref(), &settings)
    }
}

/// The settings that an application's configuration has under their names in the environment: an
/// object, a class, a dict, or a module with such names or with a `Config` that has them.
pub(crate) fn settings_of(config: &Bound<'_, PyAny>) -> PyResult<BTreeMap<&'static str, String>> {
    let mut settings = BTreeMap::new();
    let inner = match config.cast::<PyModule>() {
        Ok(module) => module.getattr_opt("Config")?,
        Err(_) => None,
    };
    for place in [Some(config), inner.as_ref()].into_iter().flatten() {
        for setting in SETTINGS {
            let value = match place.cast::<PyDict>() {
                Ok(members) => members.get_item(setting.env)?,
                Err(_) => place.getattr_opt(setting.env)?,
            };
            if let Some(value) = value.filter(|value| !value.is_none()) {
                settings.insert(setting.name, setting_text(&value)?);
            }
        }
    }
    Ok(settings)
}

fn unknown_setting(name: &str) -> String {
    let names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
    format!("there is no setting {name:?}; there are {}", names.join(", "))
}

/// How a setting is written in the environment.
fn setting_text(value: &Bound<'_, PyAny>) -> PyResult<String> {
    if let Ok(yes) = value.cast_exact::<pyo3::types::PyBool>() {
        return Ok(if yes.is_true() { "true" } else { "false" }.to_owned());
    }
    Ok(value.str()?.to_string())
}
