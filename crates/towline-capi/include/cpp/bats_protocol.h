/*
 * The SDK's C++17 API: protocol instances. Header only, over c_bats_api.h.
 */
#ifndef TOWLINE_CPP_BATS_PROTOCOL_H
#define TOWLINE_CPP_BATS_PROTOCOL_H

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bats_config.h"
#include "bats_connection.h"
#include "bats_iocontext.h"

namespace bats_detail {

/** Keeps connections and listeners alive as long as callbacks can come for them. */
class Registry : public std::enable_shared_from_this<Registry> {
public:
    std::shared_ptr<Connection> Make() {
        auto made = std::make_shared<Connection>(weak_from_this());
        std::lock_guard<std::mutex> guard(lock_);
        connections_[made.get()] = made;
        return made;
    }
    void Forget(const Connection *connection) {
        std::shared_ptr<Connection> last;
        std::lock_guard<std::mutex> guard(lock_);
        auto found = connections_.find(connection);
        if (found != connections_.end()) {
            last = std::move(found->second);
            connections_.erase(found);
        }
    }

    /** bats_connection_callback_t, with a Connection as user data. */
    static bool OnEvent(bats_connection_handle_t handle, bats_conn_event_t event, const unsigned char *data,
                        int length, void *user) {
        auto self = static_cast<Connection *>(user)->shared_from_this();
        self->SetHandle(handle);
        self->Tell(static_cast<BatsConnEvent>(event), data, length);
        if (event == bats_connection_closed) {
            if (auto registry = self->GetRegistry().lock()) {
                registry->Forget(self.get());
            }
        }
        return true;
    }

    /** A listen callback of the application, as user data of OnListen. */
    struct Listening {
        std::weak_ptr<Registry> registry;
        ListenCallback callback;
        void *context;
    };
    Listening *Listen(const ListenCallback &cb, void *context) {
        auto made = std::make_unique<Listening>(Listening{weak_from_this(), cb, context});
        std::lock_guard<std::mutex> guard(lock_);
        listening_.push_back(std::move(made));
        return listening_.back().get();
    }
    static void OnListen(bats_connection_handle_t handle, bats_listen_event_t event, void *user) {
        const auto *listening = static_cast<Listening *>(user);
        std::shared_ptr<Connection> connection;
        if (event == bats_listen_new_connection) {
            auto registry = listening->registry.lock();
            if (!registry) {
                return;
            }
            connection = registry->Make();
            connection->SetHandle(handle);
            bats_connection_set_callback(handle, OnEvent, connection.get());
        }
        if (listening->callback) {
            listening->callback(connection, static_cast<BatsListenEvent>(event), listening->context);
        }
    }

private:
    std::mutex lock_;
    std::unordered_map<const Connection *, std::shared_ptr<Connection>> connections_;
    std::vector<std::unique_ptr<Listening>> listening_;
};

}  // namespace bats_detail

/**
 * Connects and listens. When its destructor has returned, no callback of it runs and none will, except one that is itself the caller; connections are closed in the
 * background.
 */
class BatsProtocol {
public:
    explicit BatsProtocol(IOContext &io_context)
        : io_context_(io_context), registry_(std::make_shared<bats_detail::Registry>()) {}
    BatsProtocol(IOContext &io_context, const BatsConfiguration &conf) : BatsProtocol(io_context) {
        LoadConfig(conf);
    }
    virtual ~BatsProtocol() {
        if (handle_ != nullptr) {
            bats_protocol_destroy(handle_);
        }
    }
    BatsProtocol(const BatsProtocol &) = delete;
    BatsProtocol &operator=(const BatsProtocol &) = delete;

    /** Takes a copy of the settings. False, and nothing changes, when they ask for what is not offered. What was started before goes on only when this is false. */
    bool LoadConfig(const BatsConfiguration &conf) {
        bats_protocol_handle_t made = bats_protocol_create(io_context_.GetHandle(), conf.GetHandle());
        if (made == nullptr) {
            return false;
        }
        if (handle_ != nullptr) {
            bats_protocol_destroy(handle_);
        }
        handle_ = made;
        return true;
    }

    /** Begins to connect; the outcome is an event. */
    void StartConnect(const std::string &remote_addr, uint16_t remote_port, const ConnectionCallback &cb,
                      void *context) {
        Connect(remote_addr.c_str(), remote_port, cb, context);
    }
    /** The same with the address and the port of the configuration. */
    void StartConnect(const ConnectionCallback &cb, void *context) { Connect(nullptr, 0, cb, context); }

    /** Listens; the outcome is an event inside the call. */
    void StartListen(const std::string &local_addr, uint16_t local_port, const ListenCallback &cb,
                     void *context) {
        Listen(local_addr.c_str(), local_port, cb, context);
    }
    /** The same with the address and the port of the configuration. */
    void StartListen(const ListenCallback &cb, void *context) { Listen(nullptr, 0, cb, context); }

    /** Closes a connection in order, or all of them. */
    void StopConnection(const IBatsConnPtr &connection = nullptr) {
        const auto *known = dynamic_cast<const bats_detail::Connection *>(connection.get());
        if (!connection || known != nullptr) {
            bats_protocol_stop_connection(handle_, known != nullptr ? known->Handle() : nullptr);
        }
    }
    /** Stops listening; the event comes inside the call. Connections stay. */
    void StopListen() { bats_protocol_stop_listen(handle_); }

    /** The handle for calls of c_bats_api.h; it stays owned. Null without a configuration. */
    bats_protocol_handle_t GetHandle() const { return handle_; }

private:
    void Connect(const char *addr, uint16_t port, const ConnectionCallback &cb, void *context) {
        auto connection = registry_->Make();
        connection->SetConnectionCallback(cb, context);
        const bats_error_t result = bats_protocol_start_connect(handle_, addr, port,
                                                                bats_detail::Registry::OnEvent, connection.get());
        if (result == bats_error_invalid_param) {
            // Refused without an event: told here.
            connection->Tell(BatsConnEvent::BATS_CONNECTION_FAILED, nullptr, 0);
            connection->Tell(BatsConnEvent::BATS_CONNECTION_CLOSED, nullptr, 0);
            registry_->Forget(connection.get());
        }
    }
    void Listen(const char *addr, uint16_t port, const ListenCallback &cb, void *context) {
        auto *listening = registry_->Listen(cb, context);
        const bats_error_t result =
            bats_protocol_start_listen(handle_, addr, port, bats_detail::Registry::OnListen, listening);
        if (result == bats_error_invalid_param && cb) {
            cb(nullptr, BatsListenEvent::BATS_LISTEN_FAILED, context);
        }
    }

    IOContext &io_context_;
    bats_protocol_handle_t handle_ = nullptr;
    std::shared_ptr<bats_detail::Registry> registry_;
};

#endif
