//! The settings of the log: level, format and outputs, read from a configuration and checked.
//!
//! Pure: nothing is opened here. Called by `Config::validate`, and by `log`, which writes by it. Follows
//! `server/embed/config_logging.go`.

use tracing::level_filters::LevelFilter;

use super::{Config, ConfigError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Console,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Stderr,
    Stdout,
    File(String),
}

/// The logging part of a configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    pub level: LevelFilter,
    pub format: Format,
    pub targets: Vec<Target>,
}

impl LogSettings {
    pub fn from_config(config: &Config) -> Result<Self, ConfigError> {
        let refuse = |text: String| Err(ConfigError(text));
        match config.logger.as_str() {
            "zap" => {}
            "capnslog" => return refuse("--logger=capnslog is removed in v3.5".into()),
            other => return refuse(format!("unknown logger option {other:?}")),
        }
        if config.enable_log_rotation {
            return refuse(
                "flag --enable-log-rotation is not supported yet by this build: \
                 rotate with the system's tools (logrotate with copytruncate)"
                    .into(),
            );
        }
        let mut targets = Vec::new();
        for output in &config.log_outputs {
            let target = match output.as_str() {
                "default" if config.log_outputs.len() > 1 => {
                    return refuse("multi logoutput for \"default\" is not supported yet".into());
                }
                "default" | "stderr" => Target::Stderr,
                "stdout" => Target::Stdout,
                "systemd/journal" => {
                    return refuse(
                        "log output \"systemd/journal\" is not supported yet by this build: \
                         use stderr, which systemd collects"
                            .into(),
                    );
                }
                path => Target::File(path.into()),
            };
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        if targets.is_empty() {
            targets.push(Target::Stderr);
        }
        let format = match config.log_format.as_str() {
            "json" => Format::Json,
            "console" => Format::Console,
            other => return refuse(format!("unknown log format: {other}, supported values json, console")),
        };
        let level = match config.log_level.as_str() {
            "debug" | "DEBUG" => LevelFilter::DEBUG,
            "" | "info" | "INFO" => LevelFilter::INFO,
            "warn" | "WARN" => LevelFilter::WARN,
            "error" | "ERROR" => LevelFilter::ERROR,
            // Nothing above error is an event here: it ends the process with a text on stderr.
            "dpanic" | "DPANIC" | "panic" | "PANIC" | "fatal" | "FATAL" => LevelFilter::OFF,
            other => return refuse(format!("unrecognized level: {other:?}")),
        };
        Ok(Self { level, format, targets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        let error = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            LogSettings::from_config(&config).unwrap_err().0
        };
        assert_eq!(error(|c| c.logger = "capnslog".into()), "--logger=capnslog is removed in v3.5");
        assert_eq!(error(|c| c.logger = "foo".into()), "unknown logger option \"foo\"");
        assert_eq!(error(|c| c.log_level = "foo".into()), "unrecognized level: \"foo\"");
        assert_eq!(
            error(|c| c.log_format = "xml".into()),
            "unknown log format: xml, supported values json, console"
        );
        assert_eq!(
            error(|c| c.log_outputs = vec!["stderr".into(), "default".into()]),
            "multi logoutput for \"default\" is not supported yet"
        );
        assert!(error(|c| c.enable_log_rotation = true).contains("--enable-log-rotation is not supported"));
    }
}
