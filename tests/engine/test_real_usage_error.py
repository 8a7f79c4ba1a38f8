"""What arguments come to that the real vLLM refuses: known before, or, where its version is not known, from itself."""

from support.real_vllm import START, Service, command


def test_a_flag_that_this_vllm_does_not_have_starts_no_engine():
    with Service() as service:
        service.until("NoModel")
        service.wish(256, "--no-such-flag", "1")
        health = service.until("Failed")
        assert (health["reason"], health["attempt"]) == ("BadArguments", 0)
        assert 'vLLM has no flag "--no-such-flag"' in health["message"]
        assert service.path() == ["Failed"]


def test_a_usage_error_is_permanent_and_names_the_flag():
    with Service(start=("env", command())) as service:
        service.until("NoModel")
        service.wish(256, "--no-such-flag", "1")
        health = service.until("Failed", START, also=lambda h: h["engine"] == "Absent")
        assert health["reason"] == "BadArguments"
        assert "--no-such-flag 1" in health["message"]
        assert "The engine's version cannot be found out" in health["message"]
        assert (health["result"], health["attempt"], health["nextTry"]) == ("failure", 1, None)
        service.says("transition", to="Failed")
        assert service.path() == ["Loading", "Failed"]
        assert service.ours() == []
        assert service.scratch() == service.marks() == []
        service.store.write_text("{}")
        service.until("NoModel")
        assert len(service.events("engine-started")) == 1
