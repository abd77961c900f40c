// A server of the SDK in C++: sends back what comes.
//
//     bats_server_example CERT KEY [mode]
//
// Listens on 127.0.0.1, port 12345, or the port in the environment variable BATS_PORT. Modes: 0 BTP (the default), 1 BRTP, 2 BRCTP, 3 transparent.
// Ends on Ctrl+C.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <iostream>
#include <memory>
#include <thread>

#include "bats_protocol.h"

static const char *const name = "[bats_server_example] ";
static std::atomic<int> stop_signal{0};
static std::atomic<long> received{0};

/// Sends back what one client sends; what finds no room waits for it.
class Echo {
public:
    void OnEvent(const IBatsConnPtr &connection, const BatsConnEvent &event, const octet *data, int length) {
        switch (event) {
            case BatsConnEvent::BATS_CONNECTION_ESTABLISHED:
                std::cout << name << "connection established with " << connection->GetRemoteAddress() << std::endl;
                break;
            case BatsConnEvent::BATS_CONNECTION_DATA_RECEIVED:
                received++;
                // Behind what waits already, else the order would change.
                if (!waiting_.empty() || !connection->SendData(data, length)) {
                    waiting_.emplace_back(data, data + length);
                }
                break;
            case BatsConnEvent::BATS_CONNECTION_WRITABLE:
                while (!waiting_.empty() && connection->SendData(waiting_.front())) {
                    waiting_.pop_front();
                }
                break;
            case BatsConnEvent::BATS_CONNECTION_SHUTDOWN_BY_PEER:
                std::cout << name << "shut down by the peer after " << received << " messages" << std::endl;
                break;
            case BatsConnEvent::BATS_CONNECTION_CLOSED:
                std::cout << name << "connection closed" << std::endl;
                break;
            default:
                break;
        }
    }

private:
    std::deque<octetVec> waiting_;
};

int main(int argc, char **argv) {
    if (argc < 3 || argc > 4) {
        std::cerr << "usage: " << argv[0] << " CERT KEY [mode]" << std::endl;
        return 2;
    }
    const char *port = std::getenv("BATS_PORT");
    IOContext io;
    io.SetSignalCallback([](int signal) { stop_signal = signal; });
    BatsConfiguration config;
    config.SetMode(static_cast<TransMode>(argc > 3 ? std::atoi(argv[3]) : 0));
    config.SetCertFile(argv[1]);
    config.SetKeyFile(argv[2]);
    config.SetLocalAddress("127.0.0.1");
    config.SetLocalPort(port != nullptr ? std::atoi(port) : 12345);

    BatsProtocol protocol(io);
    if (!protocol.LoadConfig(config)) {
        std::cout << name << "the configuration is refused" << std::endl;
        return 1;
    }
    std::atomic<bool> failed{false};
    protocol.StartListen(
        [&failed](const IBatsConnPtr &connection, const BatsListenEvent &event, void *) {
            switch (event) {
                case BatsListenEvent::BATS_LISTEN_NEW_CONNECTION:
                    connection->SetConnectionCallback(
                        [echo = std::make_shared<Echo>()](const IBatsConnPtr &from, const BatsConnEvent &what,
                                                          const octet *data, int length, void *) {
                            echo->OnEvent(from, what, data, length);
                        },
                        nullptr);
                    break;
                case BatsListenEvent::BATS_LISTEN_SUCCESS:
                    std::cout << name << "listening" << std::endl;
                    break;
                case BatsListenEvent::BATS_LISTEN_FAILED:
                    std::cout << name << "cannot listen" << std::endl;
                    failed = true;
                    break;
                default:
                    break;
            }
        },
        nullptr);
    while (stop_signal == 0 && !failed) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    std::cout << name << received << " messages in all" << std::endl;
    return failed ? 1 : 0;
}
