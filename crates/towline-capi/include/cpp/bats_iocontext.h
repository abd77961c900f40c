/*
 * The SDK's C++17 API: the I/O context. Header only, over c_bats_api.h, whose rules on threads and callbacks hold here, too.
 */
#ifndef TOWLINE_CPP_BATS_IOCONTEXT_H
#define TOWLINE_CPP_BATS_IOCONTEXT_H

#include <functional>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <utility>

#include "../c/c_bats_api.h"

/** From which level on the log is written. */
enum class BATSLogLevel : int {
    LOG_TRACE = 0,
    LOG_DEBUG = 1,
    LOG_INFO = 2,
    LOG_WARN = 3,
    LOG_ERROR = 4,
};

/** Takes SIGINT and SIGTERM, on a thread made for that. */
using SigCallback = std::function<void(int sig)>;

namespace bats_detail {

/** The process's signal callback: there is one, the last one set. */
struct Signals {
    std::mutex lock;
    std::map<const void *, SigCallback> callbacks;

    static Signals &Instance() {
        static Signals signals;
        return signals;
    }
    static void Forward(int signal) {
        std::map<const void *, SigCallback> copied;
        {
            std::lock_guard<std::mutex> guard(Instance().lock);
            copied = Instance().callbacks;
        }
        for (const auto &entry : copied) {
            entry.second(signal);
        }
    }
};

}  // namespace bats_detail

/**
 * Owns the I/O thread. One is enough for a process; any number of protocol instances share it. It must not be destroyed inside a callback. It may be destroyed
 * before its protocol instances, which can do nothing more then.
 */
class IOContext {
public:
    /** Throws std::bad_alloc when the system gives no thread. */
    IOContext() : handle_(bats_context_create()) {
        if (handle_ == nullptr) {
            throw std::bad_alloc();
        }
    }
    virtual ~IOContext() {
        bats_context_destroy(handle_);
        std::lock_guard<std::mutex> guard(bats_detail::Signals::Instance().lock);
        bats_detail::Signals::Instance().callbacks.erase(this);
    }
    IOContext(const IOContext &) = delete;
    IOContext &operator=(const IOContext &) = delete;

    /** For the whole process. */
    void SetBATSLogLevel(BATSLogLevel level) {
        bats_context_set_log_level(handle_, static_cast<bats_log_level_t>(static_cast<int>(level)));
    }
    /** Appends the log, the whole process's, to a file; an empty path goes back to standard error. */
    void SetBATSLogFilePath(const std::string &log_path) {
        bats_context_set_log_file_path(handle_, log_path.empty() ? nullptr : log_path.c_str());
    }
    /** Has `cb` called on SIGINT and SIGTERM instead of the end of the process, as long as this lives. */
    void SetSignalCallback(SigCallback &&cb) {
        bool wanted = static_cast<bool>(cb);
        {
            std::lock_guard<std::mutex> guard(bats_detail::Signals::Instance().lock);
            if (wanted) {
                bats_detail::Signals::Instance().callbacks[this] = std::move(cb);
            } else {
                bats_detail::Signals::Instance().callbacks.erase(this);
            }
        }
        bats_context_set_signal_callback(handle_, wanted ? bats_detail::Signals::Forward : nullptr);
    }

    /** The handle for calls of c_bats_api.h; it stays owned. */
    bats_context_handle_t GetHandle() const { return handle_; }

private:
    bats_context_handle_t handle_;
};

#endif
