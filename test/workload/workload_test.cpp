// SPDX-License-Identifier: MIT
//
// Loads, recordings, samples and charts; the traces of Azure are tested with the simulator, which replays them.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "catch.h"
#include "dirigent/workload/chart.h"
#include "dirigent/workload/sample.h"
#include "dirigent/workload/workload.h"

using namespace dirigent;
using namespace dirigent::workload;

namespace {

class Folder {
 public:
  Folder() {
    std::string pattern = std::filesystem::temp_directory_path() / "dirigent-workload-XXXXXX";
    path = ::mkdtemp(pattern.data());
  }
  ~Folder() { std::filesystem::remove_all(path); }
  void write(const std::string& name, const std::string& text) const { std::ofstream(path + "/" + name) << text; }
  std::string path;
};

std::string error_of(const auto& result) { return result ? "no error" : result.error().message; }

}  // namespace

TEST_CASE("load: a constant rate is evenly spaced; the list is what the stream gives") {
  const auto workload = make_load("constant:rps=10,functions=3", 5s, 1);
  REQUIRE(workload);
  REQUIRE(workload->arrivals.size() == 50);
  CHECK(workload->arrivals[7].at == 700ms);
  LoadStream stream(*Load::parse("constant:rps=10,functions=3"), 5s, 1);
  Arrival arrival;
  for (const auto& expected : workload->arrivals) {
    REQUIRE(stream.next(arrival));
    CHECK(arrival.at == expected.at);
    CHECK(arrival.function == expected.function);
  }
  CHECK_FALSE(stream.next(arrival));
  CHECK_FALSE(stream.next(arrival));
}

TEST_CASE("load: a text that means nothing is refused with a suggestion") {
  CHECK(error_of(Load::parse("constnat:rps=1")).find("did you mean \"constant\"") != std::string::npos);
  CHECK(error_of(Load::parse("constant:rpm=1")).find("no \"rpm\" (did you mean \"rps\"") != std::string::npos);
  CHECK(error_of(Load::parse("ramp:from=-1")).find("from is \"-1\"") != std::string::npos);
  CHECK(error_of(Load::parse("poisson:spread=odd")).find("constant or exponential") != std::string::npos);
  CHECK(error_of(make_load("constant:rps=1e6", 100s, 1)).find("the limit is 50000000") != std::string::npos);
}

TEST_CASE("trace: shifted spacings fill the minute and do not begin it all at once") {
  const Folder folder;
  folder.write("durations.csv",
               "HashOwner,HashApp,HashFunction,Average,Count,Minimum,Maximum,percentile_Average_0,percentile_Average_1,"
               "percentile_Average_25,"
               "percentile_Average_50,percentile_Average_75,percentile_Average_99,percentile_Average_100\n"
               "o,a,aaaa,100,5,1,900,0,10,50,100,200,800,900\n");
  folder.write("memory.csv", "HashFunction,HashOwner,HashApp,SampleCount,AverageAllocatedMb\naaaa,o,a,1,200.0\n");
  folder.write("invocations.csv", "HashOwner,HashApp,HashFunction,Trigger,480,481\no,a,aaaa,http,50,50\n");
  for (const auto spacing : {Spacing::exponential, Spacing::equidistant, Spacing::uniform, Spacing::exponential_shift,
                             Spacing::uniform_shift}) {
    TraceOptions options;
    options.spacing = spacing;
    const auto workload = read_trace(folder.path, options);
    REQUIRE(workload);
    REQUIRE(workload->arrivals.size() == 100);
    CHECK(std::is_sorted(workload->arrivals.begin(), workload->arrivals.end(),
                         [](const Arrival& a, const Arrival& b) { return a.at < b.at; }));
    CHECK(std::count_if(workload->arrivals.begin(), workload->arrivals.end(),
                        [](const Arrival& a) { return a.at < 60s; }) == 50);
    const bool is_shifted = spacing == Spacing::exponential_shift || spacing == Spacing::uniform_shift;
    CHECK((workload->arrivals[0].at == 0s) != is_shifted);
    CHECK((workload->arrivals[50].at == 60s) != is_shifted);
  }
}

TEST_CASE("recording: rows are sorted by start, times are relative, distinct instances are functions") {
  const Folder folder;
  folder.write("r.csv",
               "phase,instance,startTime,requestedDuration\n2,b-1,1795411185448847,20000\n2,a-1,1795411185348847,"
               "10000\n2,,1795411185548847,1\n2,b-1,1795411186348847,0\n");
  const auto workload = read_recording(folder.path + "/r.csv");
  REQUIRE(workload);
  CHECK(workload->source == "r.csv");
  REQUIRE(workload->functions.size() == 2);
  REQUIRE(workload->arrivals.size() == 3);
  CHECK(workload->arrivals[0].at == 0s);
  CHECK(workload->functions[workload->arrivals[0].function].name.value == "a-1");
  CHECK(workload->arrivals[1].at == 100ms);
  CHECK(workload->arrivals[1].run_time == 20ms);
  CHECK(workload->length == 2s);
}

TEST_CASE("recording: what is none is refused with file and place") {
  const Folder folder;
  folder.write("empty.csv", "instance,startTime,requestedDuration\n");
  folder.write("column.csv", "instance,start,requestedDuration\nf,1,1\n");
  folder.write("number.csv", "instance,startTime,requestedDuration\nf,soon,1\n");
  folder.write("name.csv", "instance,startTime,requestedDuration\nNo_Name,1,1\n");
  CHECK(error_of(read_recording(folder.path + "/none.csv")).find("cannot read") != std::string::npos);
  CHECK(error_of(read_recording(folder.path + "/empty.csv")).find("no invocation") != std::string::npos);
  CHECK(error_of(read_recording(folder.path + "/column.csv")).find("no column \"startTime\"") != std::string::npos);
  CHECK(error_of(read_recording(folder.path + "/number.csv"))
            .find("number.csv:2:3 (startTime): \"soon\" is not a number") != std::string::npos);
  CHECK(error_of(read_recording(folder.path + "/name.csv")).find("No_Name") != std::string::npos);
}

TEST_CASE("sample: quantiles are values of the sample") {
  Sample sample{{5, 1, 4, 2, 3}};
  sample.sort();
  CHECK(sample.quantile(0) == 1);
  CHECK(sample.quantile(0.5) == 3);
  CHECK(sample.quantile(0.99) == 5);
  CHECK(sample.mean() == 3);
  CHECK(Sample{}.quantile(0.5) == 0);
  CHECK(Sample{}.mean() == 0);
}

TEST_CASE("chart: a picture has its panels, curves and legend; empty input gives an empty frame") {
  Sample sample{{1, 10, 100}};
  Panel panel{"x < y", "", true, {distribution_curve(0, sample), distribution_curve(1, Sample{})}};
  Panel rates{"rate", "ms", false, {{2, {{1, 10}, {10, 1000}}, true}}};
  const std::string svg = draw_chart("title", {"a", "b", "c"}, {panel, rates});
  CHECK(svg.starts_with("<svg "));
  CHECK(svg.ends_with("</svg>\n"));
  CHECK(svg.find("x &lt; y") != std::string::npos);
  CHECK(svg.find("stroke-dasharray") != std::string::npos);
  CHECK(svg.find(">1000<") != std::string::npos);
  CHECK(svg.find("nan") == std::string::npos);
  CHECK(draw_chart("t", {}, {Panel{}}).find("nan") == std::string::npos);
}
