// A RAPL counter in a folder that looks like /sys, and a clock of the test's own.
#include <catch2/catch.hpp>
#include <fstream>

#include "daemon/energy_account.h"
#include "tests/scratch.h"

using namespace glmd;
using namespace std::chrono_literals;

namespace {

struct Machine : Scratch {
    Machine() {
        std::filesystem::create_directories(zone());
        std::ofstream(zone() / "name") << "package-0\n";
        joules(0);
    }
    std::filesystem::path zone() const { return path / "class/powercap/intel-rapl:0"; }
    void joules(int n) const { std::ofstream(zone() / "energy_uj") << n << "000000\n"; }
};

}  // namespace

TEST_CASE("energy account: what was used between requests isn't counted") {
    const Machine machine;
    EnergyAccount account(machine.path);
    EnergyAccount::Time now = std::chrono::steady_clock::now();
    REQUIRE(account.report(0, now));
    CHECK(account.report(0, now)->source == "RAPL");
    CHECK(account.report(0, now)->joules == 0);

    account.begin(100, now);
    machine.joules(30);
    account.begin(110, now += 1s);  // a second generation beside the first
    machine.joules(50);
    account.end(140, now += 1s);
    EnergyAccount::Report r = *account.report(140, now);
    CHECK(r.joules == Approx(50));
    CHECK(r.tokens == 40);
    CHECK(r.watts == Approx(25));

    machine.joules(1000);  // idle
    account.begin(140, now += 100s);
    machine.joules(1010);
    r = *account.report(145, now += 2s);  // while it runs
    CHECK(r.joules == Approx(60));
    CHECK(r.tokens == 45);
    CHECK(r.watts == Approx(5));
    machine.joules(1020);
    account.end(5, now += 2s);  // a model loaded meanwhile counts from 0 again
    CHECK(account.report(5, now)->tokens == 50);
}

TEST_CASE("energy account: a report is a second old at least before the next one") {
    const Machine machine;
    EnergyAccount account(machine.path);
    EnergyAccount::Time now = std::chrono::steady_clock::now();
    account.begin(0, now);
    machine.joules(10);
    CHECK(account.report(1, now)->joules == Approx(10));
    machine.joules(11);
    CHECK(account.report(2, now += 999ms)->joules == Approx(10));
    CHECK(account.report(3, now += 1ms)->joules == Approx(11));
    account.end(4, now += 1ms);
    account.begin(4, now);
    machine.joules(12);
    CHECK(account.report(5, now)->joules == Approx(11));
    CHECK(account.report(6, now += 1s)->joules == Approx(12));
    CHECK(account.report(6, now)->tokens == 6);
}

TEST_CASE("energy account: nothing to read") {
    const Scratch s;
    EnergyAccount account(s.path);
    account.begin(0, {});
    account.end(5, {});
    CHECK(!account.report(5, {}));
}
