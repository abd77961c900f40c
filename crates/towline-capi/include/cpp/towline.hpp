/*
 * Towline for C++17: RAII over towline.h, header only.
 *
 * Objects are movable and not copyable, and free what they hold. Failures throw towline::error, except in functions that begin with
 * try_. Threads and callbacks are as in towline.h: callbacks run on I/O threads, must not block and must not throw, and
 * do not run any more when the destructor of their object has returned.
 */
#ifndef TOWLINE_HPP
#define TOWLINE_HPP

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "towline.h"

namespace towline {

/** A failed call: its result, and in what() the details. */
class error : public std::runtime_error {
public:
    explicit error(towline_result code) : std::runtime_error(towline_last_error()), code_(code) {}
    /** One of the TOWLINE_ERROR_ values. */
    towline_result code() const noexcept { return code_; }

private:
    towline_result code_;
};

/** Throws when a result is a failure. */
inline void check(towline_result result) {
    if (result != TOWLINE_OK) {
        throw error(result);
    }
}

/** Wait for ever. */
inline constexpr std::chrono::milliseconds forever{-1};

namespace detail {

/** Owns a handle. */
template <typename T, towline_result (*Free)(T *)>
class handle {
public:
    handle() noexcept = default;
    explicit handle(T *raw) noexcept : raw_(raw) {}
    handle(handle &&other) noexcept : raw_(std::exchange(other.raw_, nullptr)) {}
    handle &operator=(handle &&other) noexcept {
        if (this != &other) {
            reset();
            raw_ = std::exchange(other.raw_, nullptr);
        }
        return *this;
    }
    handle(const handle &) = delete;
    handle &operator=(const handle &) = delete;
    ~handle() { reset(); }
    /** The handle for calls of towline.h; it stays owned. */
    T *get() const noexcept { return raw_; }
    explicit operator bool() const noexcept { return raw_ != nullptr; }
    void reset() noexcept {
        if (raw_ != nullptr) {
            Free(std::exchange(raw_, nullptr));
        }
    }
    T *release() noexcept { return std::exchange(raw_, nullptr); }

private:
    T *raw_ = nullptr;
};

}  // namespace detail

/** A message to send, whose data the call copies, or a view of a received one. */
struct message {
    std::string_view data;
    std::uint64_t id = 0;
    std::uint64_t reply_to = 0;
    std::uint32_t lane = TOWLINE_LANE_NORMAL;
    bool text = false;

    message(std::string_view bytes) : data(bytes) {}
    message(const char *bytes) : data(bytes) {}
    message(const std::string &bytes) : data(bytes) {}
    explicit message(const towline_message &raw)
        : data(reinterpret_cast<const char *>(raw.data), raw.length),
          id(raw.id),
          reply_to(raw.reply_to),
          lane(raw.lane),
          text((raw.flags & TOWLINE_MESSAGE_TEXT) != 0) {}

    /** An answer to `request`, on its lane. */
    static message answer(const message &request, std::string_view bytes) {
        message made(bytes);
        made.reply_to = request.id;
        made.lane = request.lane;
        made.text = request.text;
        return made;
    }

    towline_message raw() const noexcept {
        towline_message out{};
        out.struct_size = sizeof out;
        out.id = id;
        out.reply_to = reply_to;
        out.data = reinterpret_cast<const std::uint8_t *>(data.data());
        out.length = data.size();
        out.lane = lane;
        out.flags = text ? TOWLINE_MESSAGE_TEXT : 0;
        return out;
    }
};

/** A received message that is owned. */
class received {
public:
    explicit received(towline_received *raw) : handle_(raw) {}
    /** What it holds, valid as long as this lives. */
    message view() const {
        towline_message raw{};
        raw.struct_size = sizeof raw;
        check(towline_received_message(handle_.get(), &raw));
        return message(raw);
    }

private:
    detail::handle<towline_received, towline_received_free> handle_;
};

/** Options, each by a TOWLINE_OPTION_ value. */
class config {
public:
    config() {
        towline_config *raw = nullptr;
        check(towline_config_new(&raw));
        handle_ = decltype(handle_)(raw);
    }
    config &set(towline_option option, std::uint64_t value) {
        check(towline_config_set_number(handle_.get(), option, value));
        return *this;
    }
    config &set(towline_option option, const std::string &value) {
        check(towline_config_set_text(handle_.get(), option, value.c_str()));
        return *this;
    }
    config &set(towline_option option, std::chrono::milliseconds value) {
        return set(option, static_cast<std::uint64_t>(value.count()));
    }
    config &certificate_files(const std::string &chain, const std::string &key) {
        check(towline_config_set_certificate_files(handle_.get(), chain.c_str(), key.c_str()));
        return *this;
    }
    towline_config *get() const noexcept { return handle_.get(); }

private:
    detail::handle<towline_config, towline_config_free> handle_;
};

/** Owns the I/O threads. */
class context {
public:
    explicit context(std::uint32_t threads = 0) {
        towline_context_options options{};
        options.struct_size = sizeof options;
        options.threads = threads;
        towline_context *raw = nullptr;
        check(towline_context_new(&options, &raw));
        handle_ = decltype(handle_)(raw);
    }
    towline_context *get() const noexcept { return handle_.get(); }
    towline_context_statistics statistics() const {
        towline_context_statistics out{};
        out.struct_size = sizeof out;
        check(towline_context_get_statistics(handle_.get(), &out));
        return out;
    }

private:
    detail::handle<towline_context, towline_context_free> handle_;
};

class connection;

/** Takes a connection's events on its I/O thread. */
using event_handler = std::function<void(towline_connection *, const towline_event &)>;

/** Calls of a connection by its handle, which somebody else owns: what a handler answers with. */
class connection_ref {
public:
    explicit connection_ref(towline_connection *raw) noexcept : raw_(raw) {}
    towline_connection *get() const noexcept { return raw_; }

    /** Accepts a message for sending, waiting for room; returns its id. */
    std::uint64_t send(const message &what, std::chrono::milliseconds timeout = forever) const {
        const towline_message raw = what.raw();
        std::uint64_t id = 0;
        check(towline_connection_send(raw_, &raw, timeout.count(), &id));
        return id;
    }
    /** Accepts a message if there is room now: TOWLINE_OK, TOWLINE_ERROR_FULL or another failure. */
    towline_result try_send(const message &what) const noexcept {
        const towline_message raw = what.raw();
        return towline_connection_send(raw_, &raw, 0, nullptr);
    }
    /** The next message; empty when the time is over. */
    std::optional<received> receive(std::chrono::milliseconds timeout = forever) const {
        towline_received *raw = nullptr;
        const towline_result result = towline_connection_receive(raw_, timeout.count(), &raw);
        if (result == TOWLINE_ERROR_TIMED_OUT) {
            return std::nullopt;
        }
        check(result);
        return received(raw);
    }
    received request(const message &what, std::chrono::milliseconds timeout) const {
        const towline_message raw = what.raw();
        towline_received *reply = nullptr;
        check(towline_connection_request(raw_, &raw, timeout.count(), &reply));
        return received(reply);
    }
    void wait(std::chrono::milliseconds timeout = forever) const {
        check(towline_connection_wait(raw_, timeout.count()));
    }
    void flush(std::chrono::milliseconds timeout = forever) const {
        check(towline_connection_flush(raw_, timeout.count()));
    }
    void close(std::uint64_t code = 0, const std::string &reason = {},
               std::chrono::milliseconds timeout = forever) const {
        check(towline_connection_close(raw_, code, reason.c_str(), timeout.count()));
    }
    void abort() const { check(towline_connection_abort(raw_)); }
    bool is_connected() const noexcept { return towline_connection_is_connected(raw_) != 0; }
    towline_connection_statistics statistics() const {
        towline_connection_statistics out{};
        out.struct_size = sizeof out;
        check(towline_connection_get_statistics(raw_, &out));
        return out;
    }
    towline_capabilities capabilities() const {
        towline_capabilities out{};
        out.struct_size = sizeof out;
        check(towline_connection_capabilities(raw_, &out));
        return out;
    }
    std::string local_address() const { return address(towline_connection_local_address); }
    std::string peer_address() const { return address(towline_connection_peer_address); }

private:
    std::string address(towline_result (*call)(const towline_connection *, char *, std::size_t)) const {
        char buffer[64];
        check(call(raw_, buffer, sizeof buffer));
        return buffer;
    }
    towline_connection *raw_;
};

/** A connection that is owned, with the handler that takes its events. */
class connection {
public:
    connection(towline_connection *raw, std::unique_ptr<event_handler> handler)
        : handler_(std::move(handler)), handle_(raw) {}
    connection(connection &&) noexcept = default;
    connection &operator=(connection &&other) noexcept {
        // The handle first: its callbacks use the handler.
        handle_ = std::move(other.handle_);
        handler_ = std::move(other.handler_);
        return *this;
    }
    const connection_ref *operator->() const noexcept {
        ref_ = connection_ref(handle_.get());
        return &ref_;
    }
    connection_ref ref() const noexcept { return connection_ref(handle_.get()); }

private:
    std::unique_ptr<event_handler> handler_;
    // Freed before the handler, which is declared above it.
    detail::handle<towline_connection, towline_connection_free> handle_;
    mutable connection_ref ref_{nullptr};
};

namespace detail {
inline void forward_event(towline_connection *connection, const towline_event *event, void *user) {
    (*static_cast<const event_handler *>(user))(connection, *event);
}
}  // namespace detail

/** Takes accepted connections: towline::take makes an owner with a handler of each, which has to live on somewhere.
 */
using accept_handler = std::function<void(towline_listener *, towline_connection *)>;

/** Accepts connections. */
class listener {
public:
    listener(towline_listener *raw, std::unique_ptr<accept_handler> handler)
        : handler_(std::move(handler)), handle_(raw) {}
    listener(listener &&) noexcept = default;
    listener &operator=(listener &&other) noexcept {
        handle_ = std::move(other.handle_);
        handler_ = std::move(other.handler_);
        return *this;
    }
    std::string url() const {
        char buffer[512];
        check(towline_listener_url(handle_.get(), buffer, sizeof buffer));
        return buffer;
    }
    /** The next connection, whose messages are pulled; empty when the time is over. */
    std::optional<connection> accept(std::chrono::milliseconds timeout = forever) const {
        towline_connection *raw = nullptr;
        const towline_result result = towline_listener_accept(handle_.get(), timeout.count(), &raw);
        if (result == TOWLINE_ERROR_TIMED_OUT) {
            return std::nullopt;
        }
        check(result);
        return connection(raw, nullptr);
    }

private:
    std::unique_ptr<accept_handler> handler_;
    detail::handle<towline_listener, towline_listener_free> handle_;
};

/** Inside an accept_handler: takes the connection, and has `handler` take its events. */
inline connection take(towline_connection *raw, event_handler handler) {
    auto kept = std::make_unique<event_handler>(std::move(handler));
    event_handler *user = kept.get();
    connection taken(raw, std::move(kept));
    check(towline_connection_set_callback(raw, detail::forward_event, user));
    return taken;
}

/** Connects and listens. */
class endpoint {
public:
    explicit endpoint(const context &on) { make(on, nullptr); }
    endpoint(const context &on, const config &with) { make(on, with.get()); }

    /** Begins to connect; messages are pulled. connection->wait() waits for the outcome. */
    connection connect(const std::string &urls) const {
        towline_connection *raw = nullptr;
        check(towline_connect(handle_.get(), urls.c_str(), nullptr, nullptr, &raw));
        return connection(raw, nullptr);
    }
    /** Begins to connect, with a handler for the events. */
    connection connect(const std::string &urls, event_handler handler) const {
        auto kept = std::make_unique<event_handler>(std::move(handler));
        towline_connection *raw = nullptr;
        check(towline_connect(handle_.get(), urls.c_str(), detail::forward_event, kept.get(), &raw));
        return connection(raw, std::move(kept));
    }
    listener listen(const std::string &url) const {
        towline_listener *raw = nullptr;
        check(towline_listen(handle_.get(), url.c_str(), nullptr, nullptr, &raw));
        return listener(raw, nullptr);
    }
    /** Listens with a handler that takes each connection. */
    listener listen(const std::string &url, accept_handler handler) const {
        auto kept = std::make_unique<accept_handler>(std::move(handler));
        auto forward = [](towline_listener *from, towline_connection *accepted, void *user) {
            (*static_cast<const accept_handler *>(user))(from, accepted);
        };
        towline_listener *raw = nullptr;
        check(towline_listen(handle_.get(), url.c_str(), forward, kept.get(), &raw));
        return listener(raw, std::move(kept));
    }

private:
    void make(const context &on, const towline_config *with) {
        towline_endpoint *raw = nullptr;
        check(towline_endpoint_new(on.get(), with, &raw));
        handle_ = decltype(handle_)(raw);
    }
    detail::handle<towline_endpoint, towline_endpoint_free> handle_;
};

}  // namespace towline

#endif
