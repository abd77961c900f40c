// towline.hpp: objects own what they hold, failures throw.
#include <future>
#include <mutex>
#include <vector>

#include "check.h"
#include "towline.hpp"

using namespace std::chrono_literals;

static void echo_by_handlers(const towline::endpoint &endpoint) {
    std::mutex lock;
    std::vector<towline::connection> accepted;
    towline::listener listener =
        endpoint.listen("tcp://127.0.0.1:0", [&](towline_listener *, towline_connection *raw) {
            auto taken = towline::take(raw, [](towline_connection *self, const towline_event &event) {
                if (event.kind == TOWLINE_EVENT_MESSAGE) {
                    const towline::message asked(*event.messages);
                    const auto answer = towline::message::answer(asked, asked.data);
                    CHECK(towline::connection_ref(self).try_send(answer) == TOWLINE_OK);
                }
            });
            std::lock_guard<std::mutex> guard(lock);
            accepted.push_back(std::move(taken));
        });

    std::promise<std::string> heard;
    towline::connection client =
        endpoint.connect(listener.url(), [&](towline_connection *, const towline_event &event) {
            if (event.kind == TOWLINE_EVENT_MESSAGE) {
                heard.set_value(std::string(towline::message(*event.messages).data));
            }
        });
    client->wait();
    client->send("ahoy");
    CHECK(heard.get_future().get() == "ahoy");
    const towline::received reply = client->request("how deep?", 60s);
    CHECK(reply.view().data == "how deep?" && reply.view().reply_to != 0);
    CHECK(client->statistics().messages_sent == 2 && client->is_connected());
    CHECK(client->capabilities().session && !client->peer_address().empty());

    towline::connection moved = std::move(client);
    moved->flush();
    moved->close();
    try {
        moved->send("too late");
        CHECK(false);
    } catch (const towline::error &error) {
        CHECK(error.code() == TOWLINE_ERROR_ENDED && std::string(error.what()).size() > 0);
    }
}

static void pull(const towline::endpoint &endpoint) {
    const towline::listener listener = endpoint.listen("tcp://127.0.0.1:0");
    CHECK(!listener.accept(0ms).has_value());
    const towline::connection client = endpoint.connect(listener.url());
    const auto server = listener.accept();
    client->wait();
    client->send(std::string(100000, 'x'));
    const auto message = (*server)->receive();
    CHECK(message->view().data.size() == 100000);
    CHECK(!(*server)->receive(0ms).has_value());
}

int main() {
    {
        const towline::context context(2);
        towline::config config;
        config.set(TOWLINE_OPTION_CLOSE_TIMEOUT_MS, 1000ms).set(TOWLINE_OPTION_REDIAL, 0);
        const towline::endpoint endpoint(context, config);
        echo_by_handlers(endpoint);
        pull(endpoint);
        try {
            towline::endpoint(context).connect("nonsense");
            CHECK(false);
        } catch (const towline::error &error) {
            CHECK(error.code() == TOWLINE_ERROR_ADDRESS);
        }
    }
    CHECK(towline_live_objects() == 0);
    puts("ok");
    return 0;
}
