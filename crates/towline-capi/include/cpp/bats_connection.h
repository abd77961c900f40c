/*
 * The SDK's C++17 API: connections. Header only, over c_bats_api.h.
 */
#ifndef TOWLINE_CPP_BATS_CONNECTION_H
#define TOWLINE_CPP_BATS_CONNECTION_H

#include <climits>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "bats_config.h"

class IBatsConnection;
/** Connections are shared. One that is kept beyond its end answers every call with false, 0 or an empty text. */
using IBatsConnPtr = std::shared_ptr<IBatsConnection>;

/**
 * Takes the events of a connection: the connection, the event, the message and its length with BATS_CONNECTION_DATA_RECEIVED, and the user's context. Functions
 * that return bool fit, too; what they return is reserved. On which thread, see bats_connection_callback_t. It must not block and must not throw.
 */
using ConnectionCallback =
    std::function<void(const IBatsConnPtr &, const BatsConnEvent &, const octet *, int, void *)>;
/** Takes the events of a listener; the connection is null but for BATS_LISTEN_NEW_CONNECTION. On which thread, see bats_listen_callback_t. */
using ListenCallback = std::function<void(const IBatsConnPtr &, const BatsListenEvent &, void *)>;

/** A connection. The library makes them; any thread may use them. */
class IBatsConnection {
public:
    virtual ~IBatsConnection() = default;
    /** Where the events go from now on. For accepted connections, inside BATS_LISTEN_NEW_CONNECTION. */
    virtual void SetConnectionCallback(const ConnectionCallback &cb, void *context) = 0;
    virtual void SetConnectionCallback(ConnectionCallback &&cb, void *context) = 0;
    /** Sends one message, which is copied. False when it was not taken: no room, not established, closed, or empty. */
    virtual bool SendData(const octetVec &data) = 0;
    virtual bool SendData(const octet *data, int length) = 0;
    /** Sends a file; see bats_connection_send_file. */
    virtual bool SendFile(const std::string &file_name) = 0;
    virtual bool IsWritable() = 0;
    virtual std::string GetRemoteAddress() const = 0;
    virtual std::string GetLocalAddress() const = 0;
    virtual uint16_t GetRemotePort() const = 0;
    virtual uint16_t GetLocalPort() const = 0;
    /** How large messages are best, in bytes. */
    virtual uint32_t GetIdealBufferLength() const = 0;
};

namespace bats_detail {

/** What a protocol instance keeps; see bats_protocol.h. */
class Registry;

/** A connection over its C handle. */
class Connection final : public IBatsConnection, public std::enable_shared_from_this<Connection> {
public:
    explicit Connection(std::weak_ptr<Registry> registry) : registry_(std::move(registry)) {}

    void SetConnectionCallback(const ConnectionCallback &cb, void *context) override {
        Replace(std::make_shared<const ConnectionCallback>(cb), context);
    }
    void SetConnectionCallback(ConnectionCallback &&cb, void *context) override {
        Replace(std::make_shared<const ConnectionCallback>(std::move(cb)), context);
    }
    bool SendData(const octetVec &data) override {
        return data.size() <= INT_MAX && SendData(data.data(), static_cast<int>(data.size()));
    }
    bool SendData(const octet *data, int length) override {
        return bats_connection_send_data(Handle(), data, length) == bats_error_none;
    }
    bool SendFile(const std::string &file_name) override {
        return bats_connection_send_file(Handle(), file_name.c_str()) == bats_error_none;
    }
    bool IsWritable() override { return bats_connection_is_writable(Handle()) != 0; }
    std::string GetRemoteAddress() const override { return Addresses().remote; }
    std::string GetLocalAddress() const override { return Addresses().local; }
    uint16_t GetRemotePort() const override { return Addresses().remote_port; }
    uint16_t GetLocalPort() const override { return Addresses().local_port; }
    uint32_t GetIdealBufferLength() const override {
        return static_cast<uint32_t>(bats_connection_get_ideal_buffer_length(Handle()));
    }

    bats_connection_handle_t Handle() const {
        std::lock_guard<std::mutex> guard(lock_);
        return handle_;
    }
    void SetHandle(bats_connection_handle_t handle) {
        std::lock_guard<std::mutex> guard(lock_);
        handle_ = handle;
    }
    /** Calls the application. */
    void Tell(BatsConnEvent event, const octet *data, int length) {
        std::shared_ptr<const ConnectionCallback> callback;
        void *context = nullptr;
        {
            std::lock_guard<std::mutex> guard(lock_);
            callback = callback_;
            context = context_;
        }
        if (callback && *callback) {
            (*callback)(shared_from_this(), event, data, length, context);
        }
    }
    const std::weak_ptr<Registry> &GetRegistry() const { return registry_; }

private:
    struct Ends {
        std::string local, remote;
        uint16_t local_port = 0, remote_port = 0;
    };
    Ends Addresses() const {
        char local[64] = "", remote[64] = "";
        Ends ends;
        if (bats_connection_get_addresses(Handle(), local, &ends.local_port, remote, &ends.remote_port) ==
            bats_error_none) {
            ends.local = local;
            ends.remote = remote;
        }
        return ends;
    }
    void Replace(std::shared_ptr<const ConnectionCallback> callback, void *context) {
        std::lock_guard<std::mutex> guard(lock_);
        callback_.swap(callback);
        context_ = context;
    }

    mutable std::mutex lock_;
    bats_connection_handle_t handle_ = nullptr;
    std::shared_ptr<const ConnectionCallback> callback_;
    void *context_ = nullptr;
    std::weak_ptr<Registry> registry_;
};

}  // namespace bats_detail

#endif
