/* What the test programs share: a check that says where it failed, and waiting for an event. */
#ifndef CHECK_H
#define CHECK_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CHECK(condition)                                                                   \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);  \
            abort();                                                                       \
        }                                                                                  \
    } while (0)

/* A counter that threads can wait for. */
struct counter {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    long value;
};

#define COUNTER_INIT {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0}

static inline void counter_add(struct counter *counter, long more) {
    pthread_mutex_lock(&counter->lock);
    counter->value += more;
    pthread_cond_broadcast(&counter->changed);
    pthread_mutex_unlock(&counter->lock);
}

static inline long counter_get(struct counter *counter) {
    pthread_mutex_lock(&counter->lock);
    long value = counter->value;
    pthread_mutex_unlock(&counter->lock);
    return value;
}

/* Waits until the counter is at least `value`; a minute is a failure. */
static inline void counter_wait(struct counter *counter, long value) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60;
    pthread_mutex_lock(&counter->lock);
    while (counter->value < value) {
        if (pthread_cond_timedwait(&counter->changed, &counter->lock, &until) != 0) {
            fprintf(stderr, "waited for %ld, only %ld came\n", value, counter->value);
            abort();
        }
    }
    pthread_mutex_unlock(&counter->lock);
}

#endif
