//! The store's contract: the same stories on SQLite and on PostgreSQL.

/// Makes a test of each story for each engine. A story takes a [`world::World`] with an empty, migrated database.
macro_rules! on_both {
    ($($story:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $story() {
                super::$story($crate::store::world::World::sqlite().await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $story() {
                super::$story($crate::store::world::World::postgres().await).await;
            })+
        }
    };
}

mod decisions;
mod devices;
mod dispatch;
mod enrollment;
mod ingest;
mod orders;
mod reports;
mod schema;
mod sessions;
mod world;
