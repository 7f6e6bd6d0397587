//! `jetway migrate --serve`: this process fills its store from a running server, and serves it from the
//! moment at which it is whole.
//!
//! The engine reads the log while the migration writes it. So all is in memory when the source is fenced, and
//! the time without a writer is that of the last changes and of the comparison.

use super::ServeError;
use super::start::LogStorage;
use crate::cli::ServerSettings;
use crate::engine::{Engine, Phase};
use crate::log::{Demand, Store};
use crate::restore::{self, MigrateError, MigrateSettings, Migrated, Progress, Served, Target};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The pause between two reads that wait for the writer.
const PAUSE: Duration = Duration::from_millis(5);

/// A migration.
pub(super) struct Migration {
    /// `None` once it has ended.
    migrating: Option<JoinHandle<Result<Migrated, MigrateError>>>,
    is_loaded: CancellationToken,
    /// Gives it up.
    stop: CancellationToken,
}

impl Migration {
    /// Begins one, and returns when the log can be loaded. A cancelled `stop` gives it up.
    ///
    /// # Errors
    /// [`ServeError::Migrate`].
    pub(super) async fn begin(
        settings: &ServerSettings,
        storage: &LogStorage,
        stop: CancellationToken,
    ) -> Result<Migration, ServeError> {
        let (can_be_loaded, is_loaded) = (CancellationToken::new(), CancellationToken::new());
        let store = storage.store_dir.clone().map(|dir| Store { dir, accepts_loss: false });
        let served = Served {
            endpoint: storage.endpoint.clone(),
            demand: Demand { quota: settings.quota_bytes, message_bytes: settings.max_request_bytes },
            store,
            write_error: storage.nats.as_ref().map(|nats| nats.write_error()),
            can_be_loaded: can_be_loaded.clone(),
            is_loaded: is_loaded.clone(),
        };
        let migrate = MigrateSettings {
            from: settings.migrates_from.clone(),
            target: Target::Served(Box::new(served)),
            is_dry_run: false,
            switches_over: true,
        };
        let stopped = stop.clone();
        let mut migrating = tokio::spawn(async move {
            let mut progress = Progress::default();
            let mut log = |step| {
                if let Some(line) = progress.line(step) {
                    tracing::info!("{line}");
                }
            };
            restore::migrate(migrate, stopped, &mut log).await
        });
        tokio::select! {
            biased;
            () = can_be_loaded.cancelled() => Ok(Migration { migrating: Some(migrating), is_loaded, stop }),
            ended = &mut migrating => {
                let ended = ended.expect("it does not panic");
                Err(failed(ended.expect_err("it ends well only with a log that can be loaded")))
            }
        }
    }

    /// Returns when the store is whole and durable, and has a writer. Lets the source be fenced once the
    /// engine has loaded it.
    ///
    /// # Errors
    /// [`ServeError::Migrate`].
    pub(super) async fn ended(&mut self, engine: &Engine) -> Result<(), ServeError> {
        let mut phase = engine.phase();
        // `wait_for` returns a read lock. With it held over the outcome, the next change of the phase would
        // block the engine's thread.
        let loaded = async { phase.wait_for(|phase| *phase == Phase::Serving).await.is_ok() };
        let migrated = tokio::select! {
            migrated = self.outcome() => migrated,
            true = loaded => {
                self.is_loaded.cancel();
                self.outcome().await
            }
        };
        let migrated = migrated.map_err(failed)?;
        // From then on an instance writes that has read all of it.
        let written = async {
            while let Err(error) = engine.linearizable().await {
                tracing::debug!(%error, "the migrated bucket has no writer yet");
                tokio::time::sleep(PAUSE).await;
            }
        };
        // A stop is possible without a writer, too.
        self.stop.run_until_cancelled(written).await;
        let Migrated { revision, floor, keys, leases, compared, frozen } = migrated;
        tracing::info!(
            %revision,
            floor = floor.map(tracing::field::display),
            keys,
            leases,
            compared = compared.to_string(),
            fenced_seconds = frozen.map(|frozen| frozen.as_secs_f64()),
            "the store was migrated; the source stays fenced by the alarm CORRUPT until etcdctl alarm disarm there"
        );
        Ok(())
    }

    /// Gives it up after another part has failed, and returns the error to report. Waits for the end: only
    /// then the source is not fenced any more, and no task of the migration outlives the runtime.
    pub(super) async fn give_up(mut self, error: ServeError) -> ServeError {
        self.stop.cancel();
        if self.migrating.is_none() {
            return error;
        }
        match self.outcome().await {
            Ok(_) => {
                tracing::warn!(
                    "the store is whole, and the source stays fenced by the alarm CORRUPT: start jetway without migrate"
                );
                return error;
            }
            Err(MigrateError::Stopped) => {}
            Err(error) => tracing::error!(%error, "the migration has failed, too"),
        }
        ServeError::Unserved(Box::new(error))
    }

    /// The outcome of the task. Cancel-safe.
    async fn outcome(&mut self) -> Result<Migrated, MigrateError> {
        let migrating = self.migrating.as_mut().expect("its outcome is taken once");
        let outcome = migrating.await.expect("it does not panic");
        self.migrating = None;
        outcome
    }
}

fn failed(error: MigrateError) -> ServeError {
    ServeError::Migrate(Box::new(error))
}
