/*
 * The SDK's C++17 API: configurations. Header only, over c_bats_api.h.
 */
#ifndef TOWLINE_CPP_BATS_CONFIG_H
#define TOWLINE_CPP_BATS_CONFIG_H

#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "../c/c_bats_api.h"

using octet = unsigned char;
using octetVec = std::vector<octet>;
using octVecIter = octetVec::iterator;
using octVecConstIter = octetVec::const_iterator;

/** Transmission modes; see bats_transport_mode_t. */
enum class TransMode : uint8_t {
    BTP = 0,
    BRTP = 1,
    BRCTP = 2,
    TRANSPARENT = 3,
};

/** Congestion control. The numbers are this API's own and not those of C. */
enum class CongestionControl : uint8_t {
    None = 0,
    BBR = 1,
    BBRv2 = 3,
    BBRv3 = 4,
    GCC = 5,
};

/** Frame types; see bats_frame_type_t. */
enum FrameType : uint8_t {
    TRANSPARENT = 0,
    BATS_HEADER_V0 = 1,
    BATS_HEADER_V1 = 2,
    BATS_HEADER_MIN = 3,
};

/** What happened to a connection; see bats_conn_event_t. */
enum class BatsConnEvent : uint8_t {
    BATS_CONNECTION_NONE = 0,
    BATS_CONNECTION_FAILED = 1,
    BATS_CONNECTION_ESTABLISHED = 2,
    BATS_CONNECTION_TIMEOUT = 3,
    BATS_CONNECTION_SHUTDOWN_BY_PEER = 4,
    BATS_CONNECTION_WRITABLE = 5,
    BATS_CONNECTION_DATA_RECEIVED = 6,
    BATS_CONNECTION_SEND_COMPLETE = 7,
    BATS_CONNECTION_SEND_DATA_ERROR = 8,
    BATS_CONNECTION_BUFFER_FULL = 9,
    BATS_CONNECTION_CLOSED = 10,
    BATS_CONNECTION_ERROR = 11,
    BATS_CONNECTION_ALREADY_CONNECTED = 12,
    BATS_CONNECTION_IDEAL_BUFFER_LENGTH = 13,
    BATS_CONNECTION_ALL_DATA_ACKED = 14,
};

/** What happened to a listener; see bats_listen_event_t. */
enum class BatsListenEvent : uint8_t {
    BATS_LISTEN_NONE = 0,
    BATS_LISTEN_NEW_CONNECTION = 1,
    BATS_LISTEN_FAILED = 2,
    BATS_LISTEN_SUCCESS = 3,
    BATS_LISTEN_ACCEPTED_ERROR = 4,
    BATS_LISTEN_ALREADY_IN_LISTEN = 5,
    BATS_LISTEN_STOPPED = 6,
};

/**
 * A configuration. What is not offered is refused when it is loaded into a protocol instance, and the log names it. Copies share the settings.
 */
class BatsConfiguration {
public:
    BatsConfiguration() : handle_(bats_config_create(), bats_config_destroy) {
        if (!handle_) {
            throw std::bad_alloc();
        }
    }

    void SetMode(TransMode mode) {
        bats_config_set_mode(GetHandle(), static_cast<bats_transport_mode_t>(static_cast<int>(mode)));
    }
    void SetCC(CongestionControl cc) { bats_config_set_cc(GetHandle(), InC(cc)); }
    /** How long connecting may take, in milliseconds: 1 to 600,000. */
    void SetTimeout(int timeout) { bats_config_set_timeout(GetHandle(), timeout); }
    void SetLocalPort(int local_port) { bats_config_set_local_port(GetHandle(), local_port); }
    void SetLocalAddress(const std::string &local_addr) {
        bats_config_set_local_addr(GetHandle(), local_addr.c_str());
    }
    /** The server's certificate chain, a PEM file. */
    void SetCertFile(const std::string &cert_file) { bats_config_cert_file(GetHandle(), cert_file.c_str()); }
    /** Its private key, a PEM file. */
    void SetKeyFile(const std::string &key_file) { bats_config_key_file(GetHandle(), key_file.c_str()); }
    void EnableCompression(bool enable) { bats_config_enable_compression(GetHandle(), enable ? 1 : 0); }
    void EnableEncryption(bool enable) { bats_config_enable_encryption(GetHandle(), enable ? 1 : 0); }
    void SetFrameType(FrameType frame_type) {
        bats_config_set_frame_type(GetHandle(), static_cast<bats_frame_type_t>(static_cast<int>(frame_type)));
    }
    void SetRemoteAddr(const std::string &remote_addr) {
        bats_config_set_remote_addr(GetHandle(), remote_addr.c_str());
    }
    void SetRemotePort(int remote_port) { bats_config_set_remote_port(GetHandle(), remote_port); }

    /** The handle for calls of c_bats_api.h; it stays owned. */
    bats_config_handle_t GetHandle() const { return handle_.get(); }

private:
    static bats_congestion_control_t InC(CongestionControl cc) {
        switch (cc) {
            case CongestionControl::None:
                return bats_cc_none;
            case CongestionControl::BBR:
                return bats_cc_bbr;
            case CongestionControl::BBRv2:
                return bats_cc_bbrv2;
            case CongestionControl::BBRv3:
                return bats_cc_bbrv3;
            default:
                return bats_cc_gcc;
        }
    }

    std::shared_ptr<struct bats_config_t> handle_;
};

#endif
