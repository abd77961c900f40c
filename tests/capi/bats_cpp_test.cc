// The SDK's C++ headers: names, values, ownership. Arguments: CERT KEY.
#include <atomic>
#include <future>
#include <string>
#include <thread>

#include "bats_config.h"
#include "bats_connection.h"
#include "bats_iocontext.h"
#include "bats_protocol.h"
#include "check.h"
#include "towline.h"

static_assert(static_cast<int>(TransMode::BTP) == 0 && static_cast<int>(TransMode::BRTP) == 1);
static_assert(static_cast<int>(TransMode::BRCTP) == 2 && static_cast<int>(TransMode::TRANSPARENT) == 3);
static_assert(static_cast<int>(CongestionControl::None) == 0 && static_cast<int>(CongestionControl::BBR) == 1);
static_assert(static_cast<int>(CongestionControl::BBRv2) == 3 && static_cast<int>(CongestionControl::BBRv3) == 4);
static_assert(static_cast<int>(CongestionControl::GCC) == 5);
static_assert(TRANSPARENT == 0 && BATS_HEADER_V0 == 1 && BATS_HEADER_V1 == 2 && BATS_HEADER_MIN == 3);
static_assert(static_cast<int>(BatsConnEvent::BATS_CONNECTION_CLOSED) == 10);
static_assert(static_cast<int>(BatsConnEvent::BATS_CONNECTION_ALL_DATA_ACKED) == 14);
static_assert(static_cast<int>(BatsListenEvent::BATS_LISTEN_STOPPED) == 6);
static_assert(static_cast<int>(BATSLogLevel::LOG_TRACE) == 0 && static_cast<int>(BATSLogLevel::LOG_ERROR) == 4);
static_assert(std::is_same_v<octetVec, std::vector<octet>> && std::is_same_v<IBatsConnPtr, std::shared_ptr<IBatsConnection>>);

static void Conversation(const char *cert, const char *key) {
    IOContext io;
    io.SetBATSLogLevel(BATSLogLevel::LOG_ERROR);
    BatsConfiguration config;
    config.SetMode(TransMode::BRTP);
    config.SetCC(CongestionControl::BBRv3);
    config.SetFrameType(BATS_HEADER_V1);
    config.SetTimeout(120000);
    config.SetCertFile(cert);
    config.SetKeyFile(key);
    config.SetLocalAddress("127.0.0.1");
    config.SetLocalPort(0);
    config.EnableCompression(false);
    config.EnableEncryption(true);

    struct counter closes = COUNTER_INIT;
    std::atomic<int> success{0}, stopped{0};
    // Kept beyond everything else.
    IBatsConnPtr kept;
    {
        BatsProtocol server(io, config);
        server.StartListen(
            [&](const IBatsConnPtr &connection, const BatsListenEvent &event, void *context) {
                CHECK(context == &closes);
                if (event == BatsListenEvent::BATS_LISTEN_NEW_CONNECTION) {
                    connection->SetConnectionCallback(
                        [&](const IBatsConnPtr &self, const BatsConnEvent &what, const octet *data, int length, void *) {
                            if (what == BatsConnEvent::BATS_CONNECTION_DATA_RECEIVED) {
                                CHECK(self->SendData(octetVec(data, data + length)));
                            } else if (what == BatsConnEvent::BATS_CONNECTION_CLOSED) {
                                counter_add(&closes, 1);
                            }
                            return true;
                        },
                        nullptr);
                }
                success += event == BatsListenEvent::BATS_LISTEN_SUCCESS;
                stopped += event == BatsListenEvent::BATS_LISTEN_STOPPED;
            },
            &closes);
        CHECK(success == 1);
        const uint16_t port = bats_protocol_get_listen_port(server.GetHandle());

        config.SetRemoteAddr("127.0.0.1");
        config.SetRemotePort(port);
        BatsProtocol client(io);
        CHECK(client.LoadConfig(config));
        std::promise<IBatsConnPtr> established;
        std::promise<std::string> heard;
        client.StartConnect(
            [&](const IBatsConnPtr &connection, const BatsConnEvent &event, const octet *data, int length, void *context) {
                CHECK(context == &established);
                if (event == BatsConnEvent::BATS_CONNECTION_ESTABLISHED) {
                    established.set_value(connection);
                } else if (event == BatsConnEvent::BATS_CONNECTION_DATA_RECEIVED) {
                    heard.set_value(std::string(data, data + length));
                } else if (event == BatsConnEvent::BATS_CONNECTION_CLOSED) {
                    counter_add(&closes, 1);
                }
            },
            &established);
        kept = established.get_future().get();
        CHECK(kept->IsWritable() && kept->GetIdealBufferLength() > 0);
        CHECK(kept->GetRemoteAddress() == "127.0.0.1" && kept->GetRemotePort() == port);
        CHECK(kept->GetLocalAddress() == "127.0.0.1" && kept->GetLocalPort() != 0);
        const std::string text = "ahoy";
        CHECK(kept->SendData(reinterpret_cast<const octet *>(text.data()), static_cast<int>(text.size())));
        CHECK(heard.get_future().get() == "ahoy");
        CHECK(!kept->SendData(octetVec()) && !kept->SendFile("/no/such/file"));
        client.StopConnection(kept);
        counter_wait(&closes, 2);
        server.StopListen();
        CHECK(stopped == 1);
    }
    CHECK(!kept->SendData(octetVec(3)) && !kept->IsWritable() && kept->GetRemotePort() == 0);
    CHECK(kept->GetIdealBufferLength() == 0 && kept->GetRemoteAddress().empty());
}

static void Refusals() {
    IOContext io;
    io.SetBATSLogLevel(BATSLogLevel::LOG_ERROR);
    BatsConfiguration config;
    config.SetCC(CongestionControl::GCC);
    BatsProtocol protocol(io);
    CHECK(!protocol.LoadConfig(config));
    std::atomic<int> failed{0}, closed{0}, listen_failed{0};
    // Without a configuration everything fails by an event.
    protocol.StartConnect(
        "127.0.0.1", 1,
        [&](const IBatsConnPtr &connection, const BatsConnEvent &event, const octet *, int, void *) {
            CHECK(connection != nullptr);
            failed += event == BatsConnEvent::BATS_CONNECTION_FAILED;
            closed += event == BatsConnEvent::BATS_CONNECTION_CLOSED;
        },
        nullptr);
    protocol.StartListen(
        "127.0.0.1", 0,
        [&](const IBatsConnPtr &connection, const BatsListenEvent &event, void *) {
            CHECK(connection == nullptr);
            listen_failed += event == BatsListenEvent::BATS_LISTEN_FAILED;
        },
        nullptr);
    CHECK(failed == 1 && closed == 1 && listen_failed == 1);
    protocol.StopConnection();
    protocol.StopListen();
}

// The context may go before its protocol, with everything still open.
static void AnyOrder(const char *cert, const char *key) {
    auto io = std::make_unique<IOContext>();
    BatsConfiguration config;
    config.SetMode(TransMode::BRTP);
    config.SetCertFile(cert);
    config.SetKeyFile(key);
    std::promise<void> established;
    std::atomic<int> closed{0};
    BatsProtocol protocol(*io, config);
    protocol.StartListen(
        "127.0.0.1", 0,
        [](const IBatsConnPtr &connection, const BatsListenEvent &, void *) {
            if (connection) {
                connection->SetConnectionCallback([](auto &&...) {}, nullptr);
            }
        },
        nullptr);
    protocol.StartConnect(
        "127.0.0.1", bats_protocol_get_listen_port(protocol.GetHandle()),
        [&](const IBatsConnPtr &, const BatsConnEvent &event, const octet *, int, void *) {
            if (event == BatsConnEvent::BATS_CONNECTION_ESTABLISHED) {
                established.set_value();
            }
            closed += event == BatsConnEvent::BATS_CONNECTION_CLOSED;
        },
        nullptr);
    established.get_future().get();
    io.reset();
    CHECK(closed == 1);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    Conversation(argv[1], argv[2]);
    Refusals();
    AnyOrder(argv[1], argv[2]);
    CHECK(towline_live_objects() == 0);
    puts("ok");
    return 0;
}
