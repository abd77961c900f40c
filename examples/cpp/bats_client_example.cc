// A client of the SDK in C++: sends messages and counts what comes back.
//
//     bats_client_example [send_count] [mode]
//
// send_count: how many messages, 0 (the default) without end. Modes: 0 BTP (the default), 1 BRTP, 2 BRCTP, 3 transparent. Connects to 127.0.0.1, port 12345,
// or the port in the environment variable BATS_PORT, again and again until a server is there, or no more than BATS_ATTEMPTS times. Ends when all
// messages came back, in the modes that may lose some a second after the last one, or on Ctrl+C.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <iostream>
#include <mutex>

#include "bats_protocol.h"

static const char *const name = "[bats_client_example] ";

class Client {
public:
    explicit Client(BatsProtocol &protocol) : protocol_(protocol) {
        const char *port = std::getenv("BATS_PORT");
        port_ = static_cast<uint16_t>(port != nullptr ? std::atoi(port) : 12345);
    }

    void Stop() {
        std::lock_guard<std::mutex> guard(lock_);
        stopped_ = true;
        changed_.notify_all();
    }

    /// Connects, up to so many times; whether there is a connection.
    bool Connect(long attempts) {
        std::unique_lock<std::mutex> guard(lock_);
        for (long attempt = 0; attempt < attempts && !stopped_; attempt++) {
            if (attempt > 0) {
                changed_.wait_for(guard, std::chrono::milliseconds(300), [this] { return stopped_; });
            }
            over_ = false;
            guard.unlock();
            protocol_.StartConnect(
                "127.0.0.1", port_,
                [this](const IBatsConnPtr &connection, const BatsConnEvent &event, const octet *, int, void *) {
                    OnEvent(connection, event);
                },
                nullptr);
            guard.lock();
            changed_.wait(guard, [this] { return connection_ || over_ || stopped_; });
            if (connection_) {
                return true;
            }
        }
        return false;
    }

    /// Sends; whether all were sent.
    bool Send(long count, int length) {
        const octetVec data(static_cast<std::size_t>(length), 1);
        for (long sent = 0; count == 0 || sent < count;) {
            std::unique_lock<std::mutex> guard(lock_);
            changed_.wait(guard, [this] { return writable_ || over_ || stopped_; });
            if (over_ || stopped_) {
                std::cout << name << sent << " messages were sent before the end" << std::endl;
                return false;
            }
            // Before the attempt, so that an event after it is not lost.
            writable_ = false;
            const IBatsConnPtr connection = connection_;
            guard.unlock();
            while (connection->SendData(data) && (count == 0 || ++sent < count)) {
            }
        }
        return true;
    }

    /// Waits for what comes back; `patience` is for modes that may lose messages.
    long WaitFor(long count, bool reliable) {
        std::unique_lock<std::mutex> guard(lock_);
        long seen = -1;
        while (received_ < count && !over_ && !stopped_) {
            seen = received_;
            const bool more = changed_.wait_for(guard, std::chrono::seconds(reliable ? 20 : 1), [this, seen] {
                return received_ > seen || over_ || stopped_;
            });
            if (!more) {
                break;
            }
        }
        return received_;
    }

private:
    void OnEvent(const IBatsConnPtr &connection, const BatsConnEvent &event) {
        std::lock_guard<std::mutex> guard(lock_);
        switch (event) {
            case BatsConnEvent::BATS_CONNECTION_ESTABLISHED:
                std::cout << name << "connection established" << std::endl;
                connection_ = connection;
                break;
            case BatsConnEvent::BATS_CONNECTION_WRITABLE:
                writable_ = true;
                break;
            case BatsConnEvent::BATS_CONNECTION_DATA_RECEIVED:
                received_++;
                break;
            case BatsConnEvent::BATS_CONNECTION_FAILED:
            case BatsConnEvent::BATS_CONNECTION_TIMEOUT:
                std::cout << name << "connection failed" << std::endl;
                break;
            case BatsConnEvent::BATS_CONNECTION_SHUTDOWN_BY_PEER:
                std::cout << name << "connection shut down by the peer" << std::endl;
                break;
            case BatsConnEvent::BATS_CONNECTION_CLOSED:
                std::cout << name << "connection closed" << std::endl;
                connection_.reset();
                over_ = true;
                break;
            default:
                break;
        }
        changed_.notify_all();
    }

    BatsProtocol &protocol_;
    uint16_t port_;
    std::mutex lock_;
    std::condition_variable changed_;
    IBatsConnPtr connection_;
    long received_ = 0;
    bool writable_ = false, over_ = false, stopped_ = false;
};

int main(int argc, char **argv) {
    const long count = argc > 1 ? std::atol(argv[1]) : 0;
    const int mode = argc > 2 ? std::atoi(argv[2]) : 0;
    const char *attempts = std::getenv("BATS_ATTEMPTS");
    IOContext io;
    BatsConfiguration config;
    config.SetMode(static_cast<TransMode>(mode));
    config.SetTimeout(2000);
    BatsProtocol protocol(io);
    if (!protocol.LoadConfig(config)) {
        std::cout << name << "the configuration is refused" << std::endl;
        return 1;
    }
    Client client(protocol);
    io.SetSignalCallback([&client](int) { client.Stop(); });

    const bool reliable = mode == 1 || mode == 2;
    const int length = mode == 3 ? 1200 : 30000;
    long received = 0;
    const bool sent = client.Connect(attempts != nullptr ? std::atol(attempts) : 1000000) && client.Send(count, length);
    if (sent) {
        received = client.WaitFor(count, reliable);
        std::cout << name << "sent " << count << " messages, " << received << " came back" << std::endl;
    }
    io.SetSignalCallback(nullptr);
    return sent && received > 0 && (!reliable || received == count) ? 0 : 1;
}
