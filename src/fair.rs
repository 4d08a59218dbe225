//! Fair turns for what another thread has woken.
//!
//! A worker runs its tasks in a queue of its own (tokio's `LocalSet`). What its own tasks wake goes to the end of that
//! queue; what other threads wake goes to another one, from which only every 31st turn takes a task while the first is not
//! empty. So on a busy worker the sessions whose client posts by another worker's connection waited many times as long as
//! the rest. Here all such wake-ups of a thread go by one task, the relay: it gets one of those rare turns, and wakes in
//! it everything that has been asked for, as one of the thread's own.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// A thread with a relay.
#[derive(Debug, Default)]
struct Home {
    /// `None`: the relay has ended. No task is in it twice.
    asked: Mutex<Option<Vec<Asked>>>,
    relay: AtomicWaker,
}

thread_local! {
    static HOME: RefCell<Option<Arc<Home>>> = const { RefCell::new(None) };
}

/// What the relay is asked to do.
#[derive(Debug)]
enum Asked {
    /// To wake this task, whose waker somebody has taken out of its place.
    Once(Waker),
    /// To wake this one, whose waker may be asked again.
    Again(Arc<Relayed>),
}

impl Asked {
    fn wake(self) {
        match self {
            Self::Once(task) => task.wake(),
            Self::Again(relayed) => {
                relayed.is_asked.store(false, Ordering::Release);
                relayed.task.wake_by_ref();
            }
        }
    }
}

/// A thread whose tasks others wake.
#[derive(Debug, Clone)]
pub struct Thread(Option<Arc<Home>>);

impl Thread {
    /// This one.
    pub fn current() -> Self {
        Self(HOME.with_borrow(Clone::clone))
    }

    /// It is this one, and has a relay.
    pub fn is_current(&self) -> bool {
        self.0.as_ref().is_some_and(|home| home.is_here())
    }

    /// Wakes a task of that thread.
    pub fn wake(&self, task: Waker) {
        match &self.0 {
            Some(home) if !home.is_here() => home.ask(Asked::Once(task)),
            _ => task.wake(),
        }
    }
}

/// Starts the relay of this worker thread.
pub fn start() {
    let home = Arc::new(Home { asked: Mutex::new(Some(Vec::new())), relay: AtomicWaker::new() });
    HOME.set(Some(Arc::clone(&home)));
    actix_rt::spawn(run(home));
}

async fn run(home: Arc<Home>) {
    // With the task: whoever is woken after it is woken by nobody else.
    let ends = Ends(home);
    let mut asked = Vec::new();
    poll_fn(|context| {
        ends.0.relay.register(context.waker());
        if let Some(waiting) = ends.0.asked().as_mut() {
            std::mem::swap(waiting, &mut asked);
        }
        asked.drain(..).for_each(Asked::wake);
        Poll::<()>::Pending
    })
    .await;
}

struct Ends(Arc<Home>);

impl Drop for Ends {
    fn drop(&mut self) {
        let waiting = self.0.asked().take();
        waiting.into_iter().flatten().for_each(Asked::wake);
    }
}

impl Home {
    fn asked(&self) -> MutexGuard<'_, Option<Vec<Asked>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_here(self: &Arc<Self>) -> bool {
        // Also while the thread ends.
        HOME.try_with(|home| home.borrow().as_ref().is_some_and(|home| Arc::ptr_eq(home, self))).unwrap_or(false)
    }

    fn ask(&self, wish: Asked) {
        let mut asked = self.asked();
        let Some(waiting) = asked.as_mut() else {
            drop(asked);
            wish.wake();
            return;
        };
        waiting.push(wish);
        let is_first = waiting.len() == 1;
        drop(asked);
        if is_first {
            self.relay.wake();
        }
    }
}

/// Wakes a task by its thread's relay.
#[derive(Debug)]
struct Relayed {
    home: Arc<Home>,
    task: Waker,
    is_asked: AtomicBool,
}

impl Wake for Relayed {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.home.is_here() {
            self.task.wake_by_ref();
        } else if !self.is_asked.swap(true, Ordering::AcqRel) {
            self.home.ask(Asked::Again(Arc::clone(self)));
        }
    }
}

/// The waker of one task, such that it is woken by the relay.
#[derive(Debug, Default)]
pub struct FairWaker {
    known: Option<(Waker, Waker)>,
}

impl FairWaker {
    /// For the one of this poll.
    pub fn of(&mut self, task: &Waker) -> &Waker {
        if self.known.as_ref().is_none_or(|(of, _)| !of.will_wake(task)) {
            let fair = match HOME.with_borrow(Clone::clone) {
                Some(home) => Arc::new(Relayed { home, task: task.clone(), is_asked: AtomicBool::new(false) }).into(),
                None => task.clone(),
            };
            self.known = Some((task.clone(), fair));
        }
        &self.known.as_ref().expect("it was just made").1
    }
}

/// A future that other threads wake, such that they wake it by the relay.
pub async fn fair<F: Future>(future: F) -> F::Output {
    let (mut future, mut waker) = (pin!(future), FairWaker::default());
    poll_fn(move |context| future.as_mut().poll(&mut Context::from_waker(waker.of(context.waker())))).await
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    const WOKEN: usize = 50;

    /// How many turns a thread's own tasks have until as many have run as another thread has woken at once.
    fn turns_until_all_have_run(with_relay: bool) -> usize {
        actix_rt::System::new().block_on(async move {
            if with_relay {
                start();
            }
            let (ran, turns) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
            let (told, wakes) =
                (0..WOKEN).map(|_| tokio::sync::oneshot::channel::<()>()).unzip::<_, _, Vec<_>, Vec<_>>();
            for woken in wakes {
                let ran = Rc::clone(&ran);
                actix_rt::spawn(async move {
                    fair(woken).await.unwrap();
                    ran.set(ran.get() + 1);
                });
            }
            // All wait by now.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            let busy = (0..20).map(|_| {
                let (ran, turns) = (Rc::clone(&ran), Rc::clone(&turns));
                actix_rt::spawn(async move {
                    while ran.get() < WOKEN {
                        turns.set(turns.get() + 1);
                        // Those of tokio would go to the driver first, and so run after the rest.
                        let mut is_first = true;
                        poll_fn(|context| {
                            if std::mem::take(&mut is_first) {
                                context.waker().wake_by_ref();
                                return Poll::Pending;
                            }
                            Poll::Ready(())
                        })
                        .await;
                    }
                })
            });
            let busy = busy.collect::<Vec<_>>();
            std::thread::spawn(move || told.into_iter().for_each(|told| told.send(()).unwrap())).join().unwrap();
            for task in busy {
                task.await.unwrap();
            }
            turns.get()
        })
    }

    #[test]
    fn what_another_thread_has_woken_waits_no_longer_than_the_rest() {
        let turns = turns_until_all_have_run(true);
        assert!(turns < 5 * WOKEN, "{turns}");
    }

    /// The reason for all this. Should it fail one day, tokio has become fair, and this module may go.
    #[test]
    fn without_the_relay_it_waits_many_times_as_long() {
        let turns = turns_until_all_have_run(false);
        assert!(turns > 15 * WOKEN, "{turns}");
    }

    #[test]
    fn a_task_is_woken_also_when_its_thread_has_no_relay_any_more() {
        let home = Arc::new(Home { asked: Mutex::new(None), relay: AtomicWaker::new() });
        let (task, woken) = (Arc::new(Flag::default()), Thread(Some(home)));
        woken.wake(Arc::clone(&task).into());
        assert!(task.0.load(Ordering::Relaxed));
    }

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
